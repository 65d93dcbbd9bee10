"""Tables of parts, and what a terminal prints of them."""

from __future__ import annotations

import pytest

from gaincurate.cli.report import print_parts
from gaincurate.core.stats import Estimate
from gaincurate.report.contents import groups
from gaincurate.report.document import GroupRate
from gaincurate.report.parts import Block, Figure, Legend, Part, Picture, Table, cell, records


def test_a_figure_has_its_interval_and_half_the_width_of_it() -> None:
    assert cell("pearson", Estimate(-0.22, -0.3, -0.14, 90)) == ("−0.22", "−0.30 to −0.14", "±0.08")
    assert cell("ratio", Estimate(1.234, 1.1, 1.4, 9)) == ("1.23", "1.10 to 1.40", "±0.15")
    assert cell("pearson", Estimate(0.5, 0.499, 0.501, 9))[2] == "±0.001"
    assert cell("pearson", Estimate(0.5, None, None, 9)) == ("+0.50", "", "")
    assert cell("pearson", Estimate(None, None, None, 0)) == ("–", "", "")


def test_the_columns_of_records_are_their_fields_by_what_they_hold() -> None:
    row = {"a_name": "x", "rows": 1200, "share": 0.5, "scoring_seconds": 90.0, "mu": 12.5, "ratio": None}
    table = records("caption", [row], " ".join(row), left=["a name"])
    assert table.head == ["a name", "rows", "share", "scoring seconds", "mu", "ratio"]
    assert table.rows == [["x", "1,200", "50 %", "1 min 30 s", "12.5", "–"]]


def test_a_terminal_has_no_pictures_nor_details(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("caption", ["name", "size"], [["a – b", Figure("−1.0", "−2.0 to 0.0", "±1.0")], ["c", "–"]])
    hidden = Table("hidden", ["name"], [["hidden"]], detail=True)
    blocks: list[Block] = ["text", Legend("hidden"), Picture({}, "hidden"), table, hidden]
    print_parts([Part("a", "Title", blocks), Part("b", "hidden", ["hidden"], detail=True)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        "Title",
        "  text",
        "  caption",
        "  name        size",
        "  a – b  -1.0 ±1.0",
        "  c              -",
    ]


def test_a_terminal_lists_twenty_groups_and_counts_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    rates = [GroupRate("rates", f"g{n}", 2, 0.5, 0.5, 0.25) for n in range(23)]
    print_parts([Part("outcomes", "Pass rates", groups(rates, "task"))])
    out = capsys.readouterr().out
    assert [f"g{n}" for n in range(23) if f" g{n} " in out] == [f"g{n}" for n in range(20)]
    assert "  and 3 smaller ones (--json has all)\n" in out

"""The page, and numbers, texts and tables as a page or a terminal has them."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import documents
from column_sets import column_set
from gaincurate.cli.report import print_parts
from gaincurate.core.stats import Estimate
from gaincurate.report import parts
from gaincurate.report.build import report
from gaincurate.report.contents import groups, to_html
from gaincurate.report.document import GroupRate
from gaincurate.report.html import prose
from gaincurate.report.parts import Block, FigureText, Legend, Part, Picture, Table, cell, records, typeset
from gaincurate.report.verdict import alike
from html_reader import Reader, read_whole


def test_a_figure_has_its_interval_and_half_the_width_of_it() -> None:
    assert cell("pearson", Estimate(-0.22, -0.3, -0.14, 90)) == ("−0.22", "−0.30 to −0.14", "±0.08")
    assert cell("lowest_tenth", Estimate(1.234, 1.1, 1.4, 9)) == ("1.23", "1.10 to 1.40", "±0.15")
    assert cell("pearson", Estimate(0.5, 0.499, 0.501, 9))[2] == "±0.001"
    assert cell("pearson", Estimate(0.5, None, None, 9)) == ("+0.50", "", "")
    assert cell("pearson", Estimate(None, None, None, 0)) == ("–", "", "")


def test_the_columns_of_records_are_their_fields_by_what_they_hold() -> None:
    row = {"a_name": "x", "rows": 1200, "share": 0.5, "scoring_seconds": 90.0, "mu": 12.5, "ratio": None}
    table = records("caption", [row], " ".join(row), left=["a name"])
    assert table.head == ["a name", "rows", "share", "scoring seconds", "mu", "ratio"]
    assert table.rows == [["x", "1,200", "50 %", "1 min 30 s", "12.5", "–"]]


def test_a_terminal_has_no_pictures_nor_details(capsys: pytest.CaptureFixture[str]) -> None:
    cells: list[list[str | FigureText]] = [["a – b", FigureText("−1.0", "−2.0 to 0.0", "±1.0")], ["c", "–"]]
    table = Table("caption", ["name", "size"], cells)
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


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain\ttext\nin two lines", "plain\ttext\nin two lines"),
        ("right\u202eleft", "right\\u202eleft"),
        ("two\u2028lines\u2029", "two\\u2028lines\\u2029"),
        ("nul\x00 bell\x07 delete\x7f", "nul\\u0000 bell\\u0007 delete\\u007f"),
        ("a lone \ud800 half", "a lone \\ud800 half"),
        ("a pair \ud83d\ude00 of halves", "a pair \U0001f600 of halves"),
        ("joined \U0001f468\u200d\U0001f4bb", "joined \U0001f468\u200d\U0001f4bb"),
    ],
)
def test_what_has_no_shape_is_written_out(text: str, seen: str) -> None:
    assert parts.shown(text) == seen


@given(st.text())
def test_shown_text_can_be_written_and_is_left_alone_the_second_time(text: str) -> None:
    seen = parts.shown(text)
    seen.encode()
    assert all(c.isprintable() or c in "\t\n" or ord(c) > 0x9F for c in seen)
    assert parts.shown(seen) == seen


@pytest.mark.parametrize(
    ("form", "values", "seen"),
    [
        (parts.number, [None, 0.0, 0.123456, -0.00123], ["–", "0", "0.123", "−0.00123"]),
        (parts.number, [12.34, 12345.6, 1e-12, -2.5e12], ["12.3", "12,346", "1.00e−12", "−2.50e+12"]),
        (parts.signed, [0.123, -0.3, 1.0, None], ["+0.12", "−0.30", "+1.00", "–"]),
        (parts.signed, [-0.001, 0.0], ["0.00", "0.00"]),
        (parts.share, [0.0, 1.0, 0.5, 0.0345, None], ["0 %", "100 %", "50 %", "3.5 %", "–"]),
        (parts.share, [0.9967, 0.0004, 0.9996], ["99.7 %", "< 0.1 %", "> 99.9 %"]),
        (parts.seconds, [9.96, 59.4, 200, 7500], ["10.0 s", "59 s", "3 min 20 s", "2 h 05 min"]),
    ],
)
def test_numbers(form: Any, values: list[float | None], seen: list[str]) -> None:
    assert [form(value) for value in values] == seen


@given(st.floats(-1e300, 1e300))
def test_a_number_says_its_value_to_three_digits(value: float) -> None:
    seen = float(parts.number(value).replace(",", "").replace("−", "-"))
    assert math.isclose(seen, value, rel_tol=0.006)


# Markup, ends of elements and comments, quotes, a template's own marks, lines that end, text turned round, no shape.
HOSTILE = "<script>alert(1)</script></script><!--]]>\"'&amp;<img src=x onerror=alert(2)>{{ 7 * 7 }}\u2028\u202e\x00\x1b\ud800"
HOSTILE += "\u202c" + "x" * 300


@pytest.fixture(scope="module")
def html() -> str:
    return to_html(documents.example())


def hostile(value: Any) -> Any:
    """The same document with a hostile text in place of each text that comes from data; equal texts stay equal."""
    if isinstance(value, str):
        return f"{value}{HOSTILE}" if value else value
    if isinstance(value, list):
        return [hostile(item) for item in value]
    if isinstance(value, dict):
        ours = {"gc_id", "text", "with"}
        return {key if key in ours else hostile(key): hostile(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        ours = {"verdict", "role", "run", "end"}
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return replace(value, **{k: v if k in ours else hostile(v) for k, v in fields.items()})
    return value


def test_the_page_is_whole_and_every_picture_has_a_sentence(html: str) -> None:
    document, read = documents.example(), read_whole(html)
    assert read.tags()["table"] > 10
    assert len(html) < 400_000
    targets = len({r.target for r in document.relations}) + len({r.target for r in document.lifts})
    assert len(read.all("svg")) == len(document.scatters) + targets + 1  # and the rounds of the run


def test_the_first_screen_says_what_the_document_says(html: str) -> None:
    document, read = documents.example(), Reader(html)
    first = read.text.split("Parts of this page")[0]
    for said in (document.headline, *(v.sentence for v in document.verdicts), "What to do next"):
        assert typeset(said) in first
    assert document.verdicts[0].banner is not None
    assert first.count(typeset(document.verdicts[0].banner)) == 1
    parts = [a["id"] for a in read.all("section") if a.get("class") == "part"]
    assert parts[0] == "run"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("from -0.3 (-0.4 to +0.1): 2-3 rows", "from −0.3 (−0.4 to +0.1): 2-3 rows"),
        ("run `a -1 <b>` or <c>", "run <code>a -1 &lt;b&gt;</code> or &lt;c&gt;"),
        ("one ` only -1", "one ` only -1"),
        ("\u202e `\x00`", "\\u202e <code>\\u0000</code>"),
    ],
)
def test_sentences_are_set_with_minus_signs_and_code(text: str, seen: str) -> None:
    assert prose(text) == seen


def test_texts_of_data_are_shown_as_text_wherever_they_stand() -> None:
    page = to_html(hostile(documents.example()))
    page.encode()
    found = Reader(page)
    assert found.open == []
    assert not found.tags().keys() & {"script", "img"}
    assert not [a for _, a in found.elements if any(name.startswith("on") for name in a)]
    assert HOSTILE.partition("\u2028")[0] in found.text
    assert "\\u2028\\u202e\\u0000\\u001b\\ud800\\u202c" in found.text
    assert not re.search("[\x00\x1b\u2028\u202e\u202c]", page)


def test_a_set_of_which_little_is_known_has_a_page_of_what_there_is(tmp_path: Path) -> None:
    found = Reader(to_html(report(column_set(tmp_path / "set", [3, 4], {"gc_angle": [0.1, 0.2]}))))
    ids = {a["id"] for _, a in found.elements if "id" in a}
    assert {a["href"] for a in found.all("a")} <= {f"#{name}" for name in ids}
    assert not ids & {"relations", "lifts", "outcomes", "run"}
    assert "Too few rows to say" in found.text
    assert "is unknown without pass rates" in found.text
    assert f"gaincurate hygiene {tmp_path / 'set'}" in found.text
    assert "--drop" not in found.text


def test_signals_with_one_verdict_share_a_row_and_those_worth_a_trial_do_not() -> None:
    base = documents.example()
    many = [replace(base.verdicts[k % 2], signal=f"signal{k}", banner=None) for k in range(4)]
    assert [len(row) for row in alike(replace(base, verdicts=many))] == [4]
    worth = [replace(many[0], verdict="tells-more", sort_first="highest", signal=name) for name in "ab"]
    rows = alike(replace(base, verdicts=[*many, *worth]))
    assert [[verdict.signal for verdict in row] for row in rows] == [["a"], ["b"], [v.signal for v in many]]

"""Results read back as arrays, and what is said of folders that are not whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import compare_results
from gaincurate.compare.results import FACTS, RESULTS, read_results
from gaincurate.errors import OutputError

ARMS = ["uniform", "length", "a"]
ASKED = compare_results.comparison(ARMS, seeds=2, marks=2)
RATES = compare_results.world([0.0] * 3, seeds=2, prompts=5, spread=0.1, samples=4, draw=1)


def test_arrays_have_what_the_rows_say(tmp_path: Path) -> None:
    out = compare_results.write(tmp_path / "out", ASKED, compare_results.rows_of(ASKED, RATES))
    results = read_results(out)
    np.testing.assert_array_equal(results.accuracy, RATES)
    assert (results.arms, results.seeds, len(results.prompts), results.left_out) == (ARMS, [0, 1], 5, 0)
    assert results.costs["tokens"].tolist()[2] == [[800, 800], [5007, 5014], [10007, 10014]]
    assert results.costs["scoring"][2, 1:].tolist() == [[800, 800], [800, 800]]
    assert results.written[2, 1, 0].tolist() == [52] * 5
    assert results.steps["a", 1]["step"].tolist() == list(range(1, 21))
    assert results.comparison["budget_tokens"] == 10_000


def test_a_prompt_that_could_not_be_judged_is_left_out_everywhere(tmp_path: Path) -> None:
    rows = compare_results.rows_of(ASKED, RATES)
    rows["evaluations"][13] |= {"samples": 0, "right": 0}
    gone = rows["evaluations"][13]["gc_id"]
    results = read_results(compare_results.write(tmp_path / "out", ASKED, rows))
    assert (len(results.prompts), results.left_out) == (4, 1)
    judged = [place for place in range(5) if f"id-{place:04d}" != gone]
    np.testing.assert_array_equal(results.accuracy, RATES[..., judged])


@pytest.mark.parametrize("name", ["evaluations", "marks"])
def test_tables_of_other_settings_are_refused(tmp_path: Path, name: str) -> None:
    rows = compare_results.rows_of(ASKED, RATES)
    rows[name].pop()
    out = compare_results.write(tmp_path / "out", ASKED, rows)
    with pytest.raises(OutputError, match=rf"results are not those of {FACTS}\. Run the same command again"):
        read_results(out)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="has no comparison.json: it is no comparison"):
        read_results(tmp_path)
    out = compare_results.example(tmp_path / "out", seeds=2, prompts=3)
    whole = (out / FACTS).read_bytes()
    (out / FACTS).write_bytes(whole[:-9])
    with pytest.raises(OutputError, match=r"comparison.json is damaged; restore it from a copy"):
        read_results(out)
    (out / FACTS).write_bytes(whole)
    (out / RESULTS / "marks.arrow").unlink()
    with pytest.raises(OutputError, match=r"has no marks.arrow: the comparison is not finished"):
        read_results(out)

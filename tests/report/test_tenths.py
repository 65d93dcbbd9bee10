"""p (1 - p) by the tenth of a column, and what a prediction of it would pick, where the truth was planted."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from column_sets import column_set, ids
from gaincurate.report.build import report
from gaincurate.report.document import Document
from gaincurate.report.lift import PREDICTED

ROWS = 300


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """Prompts of two kinds that embeddings tell apart: of one half are right, of the other none or all."""
    folder, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(5)
    teaches = rng.random(ROWS) < 0.4
    flat = rng.normal(size=(ROWS, 8)) * 0.3
    flat[:, 0] += np.where(teaches, 2.0, -2.0)
    rate = np.where(teaches, 0.5, rng.integers(0, 2, ROWS))
    wins = rng.binomial(8, rate)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1).astype(np.float16)), 8)
    column_set(
        folder / "scored",
        rng.integers(10, 60, ROWS),
        {"gc_angle": np.arange(ROWS) // 2, "gc_nll": rng.normal(size=ROWS), "gc_embedding": embedding},
        {"source": pa.array([("one", "two")[row % 2] for row in range(ROWS)])},
    )
    lines = [{"gc_id": i, "wins": int(w), "losses": int(8 - w)} for i, w in zip(ids(ROWS), wins, strict=True)]
    (folder / "rates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = report(folder / "scored", rollouts=[folder / "rates.jsonl"])
    made.notes.append(json.dumps(wins.tolist()))  # for the tests
    return made


def test_tenths_are_means_of_slices_of_the_sorted_column(document: Document) -> None:
    wins = np.array(json.loads(document.notes[-1]))
    observed = wins * (8 - wins) / 56
    figure = next(figure for figure in document.tenths if figure.column == "gc_angle")
    assert figure.mean == pytest.approx(observed.mean())
    assert len(figure.tenths) == 10
    for k, tenth in enumerate(figure.tenths):
        inside = slice(30 * k, 30 * (k + 1))  # the column rises with the row, two rows to a value
        assert tenth.value == pytest.approx(observed[inside].mean())
        assert (figure.low[k], figure.high[k], tenth.rows) == (15 * k, 15 * k + 14, 30)
        half = 2.045 * observed[inside].std(ddof=1) / np.sqrt(30)  # Student's quantile of 29 degrees
        assert tenth.value is not None
        assert tenth.high is not None
        assert tenth.high - tenth.value == pytest.approx(half, rel=0.01)


def test_a_prediction_from_embeddings_finds_what_no_signal_does(document: Document) -> None:
    lifts = {(lift.column, lift.end): lift.ratio for lift in document.lifts}
    predicted = lifts[PREDICTED, "highest"]
    assert predicted.rows == 26  # a tenth of 256 references
    assert predicted.value is not None
    assert predicted.low is not None
    assert predicted.value > 2.2  # with 0.4 of the prompts of one kind, picking only those has 2.5
    assert predicted.low > 1.5
    assert (PREDICTED, "lowest") not in lifts
    assert all((lifts[name, "highest"].value or 0) < 1.7 for name in ("gc_nll", "gc_angle"))
    lowest = next(figure for figure in document.tenths if figure.column == PREDICTED).tenths[0]
    assert lowest.value is not None
    assert lowest.value < 0.05


def test_the_parts_of_a_groups_pass_rates_are_counted(document: Document) -> None:
    wins = np.array(json.loads(document.notes[-1]))
    for place, rate in enumerate(sorted(document.group_rates, key=lambda rate: rate.group)):
        inside = wins[place::2]
        ends = [(0, 0), (1, 2), (3, 4), (5, 6), (7, 7), (8, 8)]
        assert rate.counts == [int(((inside >= low) & (inside <= high)).sum()) for low, high in ends]

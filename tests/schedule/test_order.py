from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import runs
import sets
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.run import Order, build


@given(st.lists(st.sampled_from([0.1, 0.2, 0.25, 0.5]), min_size=1, max_size=12), st.booleans())
def test_an_order_is_sorted_by_value_and_equal_ones_by_id(
    tmp_path_factory: pytest.TempPathFactory, angles: list[float], ascending: bool
) -> None:
    folder = tmp_path_factory.mktemp("order")
    ids = [f"{(7 * i) % 13:02d}" for i in range(len(angles))]
    rows = [sets.scored_row(gc_id, angle=angle) for gc_id, angle in zip(ids, angles, strict=True)]
    scored = ScoredSet(sets.make_set(folder / "set", [rows[:5], rows[5:]]))
    assert build(folder / "o.arrow", scored, "gc_angle", ascending=ascending) == 0
    order = Order(folder / "o.arrow")
    sign = 1 if ascending else -1
    expected = sorted(range(len(angles)), key=lambda k: (sign * np.float32(angles[k]), ids[k]))
    assert order.rows.tolist() == expected
    assert order.values.tolist() == [float(np.float32(angles[k])) for k in expected]


@pytest.mark.parametrize("ascending", [False, True])
def test_rows_without_a_value_come_last_whatever_the_direction(tmp_path: Path, ascending: bool) -> None:
    scored = ScoredSet(runs.some_set(tmp_path / "set", 6, 2))
    ids = scored.column("gc_id").to_pylist()
    scored.add_column("gc_difficulty", ids[:4], pa.array([0.5, float("nan"), 0.1, None]), {})
    assert build(tmp_path / "o.arrow", scored, "gc_difficulty", ascending=ascending) == 4
    order = Order(tmp_path / "o.arrow")
    assert order.rows.tolist()[:2] == ([2, 0] if ascending else [0, 2])
    assert np.isnan(order.values[2:]).all()


def test_a_column_of_texts_or_none_is_refused(tmp_path: Path) -> None:
    scored = ScoredSet(runs.some_set(tmp_path / "set", 6, 2))
    with pytest.raises(
        InputError, match="--by question: that column holds string, and an order needs numbers"
    ):
        build(tmp_path / "o.arrow", scored, "question", ascending=True)
    with pytest.raises(InputError, match="has no column 'level'; it has question, gc_id"):
        build(tmp_path / "o.arrow", scored, "level", ascending=True)


def test_a_damaged_order_is_refused(tmp_path: Path) -> None:
    (tmp_path / "o.arrow").write_bytes(b"ARROW1\0\0 and no more")
    with pytest.raises(OutputError, match="o.arrow is damaged"):
        Order(tmp_path / "o.arrow")

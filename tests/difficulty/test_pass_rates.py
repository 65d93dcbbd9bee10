"""Every form in which observations come, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.feather import write_feather

import runs
from gaincurate.core.files import write_lines
from gaincurate.core.outcomes import Rules
from gaincurate.difficulty.pass_rates import PassRates, of_table, pooled, read_pass_rates
from gaincurate.errors import InputError, OutcomeError
from gaincurate.schedule.observations import pass_rates_of


def tallies(rates: PassRates) -> dict[str, tuple[float, float]]:
    return dict(zip(rates.ids, zip(rates.wins.tolist(), rates.losses.tolist(), strict=True), strict=True))


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    write_lines(path, rows)
    return path


def read(path: Path, rules: Rules | None = None, **columns: Any) -> PassRates:
    """A file of these columns, read again."""
    pq.write_table(pa.table(columns), path)
    (rates,) = read_pass_rates(path, rules)
    return rates


ROLLOUTS = {"gc_id": ["b", "a", "a", "b", "c", "a"], "reward": [1.0, 0.0, 1.0, None, None, 0.0]}
EXPECTED = {"a": (1.0, 2.0), "b": (1.0, 0.0)}


def test_rollouts_are_counted_by_id_in_any_format(tmp_path: Path) -> None:
    table = pa.table(ROLLOUTS)
    pq.write_table(table, tmp_path / "r.parquet")
    write_feather(table, tmp_path / "r.arrow", "uncompressed")
    lines(tmp_path / "r.jsonl", table.to_pylist())
    folder = tmp_path / "folder/shards"
    folder.mkdir(parents=True)
    write_feather(table.slice(0, 2), folder / "1.arrow", "uncompressed")
    more = table.slice(2).append_column("finish", pa.array(["stop"] * 4))
    write_feather(more, folder / "2.arrow", "uncompressed")
    for name in ("r.parquet", "r.arrow", "r.jsonl", "folder"):
        (found,) = read_pass_rates(tmp_path / name)
        assert tallies(found) == EXPECTED
        assert found.ids == sorted(found.ids)
        assert found.failure.tolist() == [pytest.approx(2 / 3), 0.0]
        assert (found.counted, found.round) == (True, None)


def test_a_line_with_a_long_completion_is_read(tmp_path: Path) -> None:
    rows = [{"gc_id": "a", "completion": "x" * 3_000_000, "reward": 1.0}, {"gc_id": "a", "reward": 0.0}]
    assert tallies(read_pass_rates(lines(tmp_path / "r.jsonl", rows))[0]) == {"a": (1.0, 1.0)}


def test_rewards_are_shares_of_their_range_and_booleans_are_rewards(tmp_path: Path) -> None:
    made, path = {"a": (1.5, 0.5), "b": (0.0, 1.0)}, tmp_path / "r.parquet"
    assert tallies(read(path, Rules(0.0, 2.0), gc_id=["a", "a", "b"], reward=[2.0, 1.0, 0.0])) == made
    assert tallies(read(path, Rules(-1.0, 1.0), gc_id=["a", "a", "b"], reward=[1.0, 0.0, -1.0])) == made
    assert tallies(read(path, gc_id=["a", "a"], reward=[True, False])) == {"a": (1.0, 1.0)}


def test_rates_with_and_without_their_number_of_rollouts(tmp_path: Path) -> None:
    path, rates = tmp_path / "r.parquet", dict[str, Any](gc_id=["a", "b"], pass_rate=[0.25, 1.0])
    found = read(path, None, **rates, samples=[8, 4])
    assert (tallies(found), found.counted) == ({"a": (2.0, 6.0), "b": (4.0, 0.0)}, True)
    assert found.failure.tolist() == [0.75, 0.0]
    found = read(path, None, **rates)
    assert (tallies(found), found.counted) == ({"a": (0.25, 0.75), "b": (1.0, 0.0)}, False)
    assert tallies(read(path, gc_id=["a"], wins=[3], losses=[5])) == {"a": (3.0, 5.0)}


def test_a_trainers_outcomes_are_read_as_a_run_reads_them_each_round_a_policy(tmp_path: Path) -> None:
    row = {"gc_id": "a", "round": 1, "step": 1}
    path = lines(
        tmp_path / "outcomes.jsonl",
        [
            {"attempt": 1},
            {"gc_id": "b", "round": 0, "reward": 1, "sample": 0},  # done again below
            {**row, "reward": 1, "sample": 0},
            {**row, "reward": 1, "sample": 0},  # said again
            {**row, "reward": 1, "sample": 1, "step": 2},  # taken back below
            {"resume_from_step": 1},
            {**row, "reward": 0, "sample": 1, "step": 2},
            {**row, "reward": 0, "sample": 2, "correct": True},
            {**row, "reward": None, "sample": 3},
            {"attempt": 2},
            {"gc_id": "b", "round": 0, "reward": 0, "sample": 0},  # late
        ],
    )
    path.write_text(path.read_text() + '{"gc_id": "a", "round": 1, "rew')
    found = read_pass_rates(path)
    assert [(one.round, tallies(one)) for one in found] == [(0, {"b": (0.0, 1.0)}), (1, {"a": (2.0, 1.0)})]
    assert found[1].name == "outcomes.jsonl, round 1"


def test_a_run_gives_its_rounds_with_its_own_range_of_rewards(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, reward_high=2.0)
    runs.report(run, lambda gc_id, sample: 2 * (sample % 2), samples=4)
    (found,) = pass_rates_of(run.folder)
    assert found.ids == sorted(run.ids(0))
    assert set(found.failure.tolist()) == {0.5}
    assert set((found.wins + found.losses).tolist()) == {4.0}
    assert found.source is not None
    assert found.source["file"] == "run"


def test_files_about_one_policy_add_up(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    parts = [read(path, gc_id=["a", "b"], reward=[1, 0]), read(path, gc_id=["a"], reward=[0])]
    assert tallies(pooled(parts)) == {"a": (1.0, 1.0), "b": (0.0, 1.0)}
    with pytest.raises(InputError, match="'a' has two rates without numbers of rollouts"):
        pooled([*parts, read(path, gc_id=["a"], pass_rate=[0.5])])


BAD: list[tuple[dict[str, list[Any]], type[InputError], str]] = [
    ({"gc_id": ["a"], "score": [1]}, InputError, r"has the columns gc_id, score; needed are gc_id and one of"),
    ({"id": ["a"], "reward": [1]}, InputError, r"has the columns id, reward; needed are"),
    ({"gc_id": ["a"], "reward": [2.0]}, OutcomeError, r"reward of 'a' is 2, outside 0 to 1\."),
    ({"gc_id": ["a"], "pass_rate": [-0.5]}, OutcomeError, r"pass_rate of 'a' is -0\.5, outside 0 to 1\."),
    ({"gc_id": ["a"], "wins": [-1], "losses": [2]}, OutcomeError, r"wins of 'a' is -1, outside 0 to 9\.0072e\+15\."),
    ({"gc_id": ["a"], "wins": [1e308], "losses": [2]}, OutcomeError, r"wins of 'a' is 1e\+308, outside 0 to"),
    ({"gc_id": [["a"]], "reward": [1]}, InputError, r"cannot be read: .*list"),
    ({"gc_id": ["a"], "model": [{"x": 1}], "reward": [1]}, InputError, r"cannot be read: .*struct"),
    ({"gc_id": [b"\xff"], "reward": [1]}, InputError, r"cannot be read: .*UTF8"),
    ({"gc_id": [None], "reward": [1]}, InputError, r"a row has no gc_id\."),
    ({"gc_id": ["a"], "reward": ["1"]}, InputError, r"the column reward has type string, not numbers\."),
    ({"gc_id": ["a", "a"], "pass_rate": [1, 0]}, InputError, r"'a' occurs twice"),
    ({"gc_id": ["a"], "reward": [None]}, InputError, r"has no rollout that could be judged\."),
    ({"gc_id": ["a"], "wins": [5e-324], "losses": [0]}, InputError, r"r.parquet has no rollout that could be"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "kind", "sentence"), BAD, ids=[case[2][:30] for case in BAD])
def test_what_cannot_be_used_is_named(
    tmp_path: Path, columns: dict[str, list[Any]], kind: type[InputError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        read(tmp_path / "r.parquet", None, **columns)


def test_files_of_one_folder_may_have_numbers_and_texts_of_other_types(tmp_path: Path) -> None:
    table = pa.table({**ROLLOUTS, "completion": ["x"] * 6})
    pq.write_table(table.slice(0, 3), tmp_path / "1.parquet")
    other = pa.schema([("gc_id", pa.large_string()), ("reward", pa.int64()), ("completion", pa.int8())])
    more = table.slice(3).set_column(2, "completion", [[1, 2, 3]]).cast(other)
    pq.write_table(more, tmp_path / "2.parquet")
    (found,) = read_pass_rates(tmp_path)
    assert tallies(found) == EXPECTED
    pq.write_table(pa.table({"gc_id": ["a"], "reward": [[1.0]]}), tmp_path / "3.parquet")
    with pytest.raises(InputError, match="cannot be read: Unable to merge"):
        read_pass_rates(tmp_path)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["m", "n", "", None]), st.booleans())))
def test_each_model_has_the_rollouts_that_are_its_own(rows: list[tuple[str, str | None, bool]]) -> None:
    expected: dict[str, dict[str, tuple[float, float]]] = {}
    for gc_id, model, right in rows:
        if model is not None:
            wins, losses = expected.setdefault(model, {}).get(gc_id, (0.0, 0.0))
            expected[model][gc_id] = (wins + right, losses + (not right))
    names = ("gc_id", "model", "reward")
    kinds = (pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.bool_())
    columns = [
        pa.array([row[k] for row in rows], pa.string() if k == 1 else kinds[k]).cast(kinds[k])
        for k in range(3)
    ]
    summed = of_table(pa.table(columns, names), Path("x"), Rules())
    assert [one.name for one in summed] == sorted(expected)
    assert {one.name: tallies(one) for one in summed} == expected


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("gc_id,reward\n")
    (tmp_path / "r.parquet").write_text("no parquet")
    (tmp_path / "empty").mkdir()
    for name, sentence in (
        ("r.csv", r"expected \.jsonl, \.parquet or \.arrow"),
        ("r.parquet", r"cannot be read: "),
        ("empty", r"has no \.arrow or \.parquet file and is no run\."),
        ("none", r"does not exist\."),
    ):
        with pytest.raises(InputError, match=sentence):
            read_pass_rates(tmp_path / name)
    for round_, reward, sentence in (
        (0, 3, "reward 3 of 'a' is outside 0 to 1"),
        (-1, 1, "there is no round -1"),
    ):
        path = lines(tmp_path / "o.jsonl", [{"gc_id": "a", "round": round_, "reward": reward}])
        with pytest.raises(OutcomeError, match=rf"o\.jsonl, line 1: {sentence}"):
            read_pass_rates(path)

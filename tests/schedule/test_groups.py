"""Runs that keep the shares of groups, a column's or clusters of embeddings, or draw by a condition."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import column_sets
import dots_runs
import embedded
import runs
from command import run as gaincurate
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError, OutputError, StorageError
from gaincurate.schedule import groups, rounds
from gaincurate.schedule.base import Json, Selector
from gaincurate.schedule.groups import PromptGroups
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Order, Run, build

ROWS = 120
SOURCES = ["code"] * 24 + ["math"] * 72 + [None] * 24
RATES = [(7 * row) % ROWS / ROWS for row in range(ROWS)]


def a_set(folder: Path, source: dict[str, Any] | None = None) -> Path:
    """A set of three sources, or with these source columns, and a failure rate for each prompt."""
    random = np.random.default_rng(0)
    columns = {"source": pa.array(SOURCES)} if source is None else source
    path = column_sets.column_set(
        folder / "set", random.integers(3, 90, ROWS), {"gc_angle": random.random(ROWS)}, columns
    )
    scored = ScoredSet(path)
    scored.add_column("gc_difficulty", scored.column("gc_id").to_pylist(), pa.array(RATES), {})
    return path


def begin(folder: Path, source: dict[str, Any] | None = None, **options: Any) -> Run:
    if not (folder / "set").exists():
        a_set(folder, source)
    given: dict[str, Any] = {"stratify": "source", "strategy": "uniform", "budget": 11, "rounds": 6}
    return runs.begin(folder, **(given | options))


def sources_of(run: Run, round_: int) -> Counter[str | None]:
    return Counter(run.scored.rows(run.ids(round_)).column("source").to_pylist())


@pytest.mark.parametrize("strategy", ["uniform", "file-order", "length", "gain-rl", "posterior", "falling"])
def test_every_round_of_a_run_has_the_shares(tmp_path: Path, strategy: str) -> None:
    run = begin(tmp_path, strategy=strategy)
    names = ["code", None, "math"]
    quotas = PromptGroups.coded(np.array([names.index(source) for source in SOURCES]), list(map(str, names)))
    for round_ in range(6):
        code, nothing, math = quotas.quotas(11, round_).tolist()
        assert sources_of(run, round_) == {"code": code, "math": math, None: nothing}
        prompts = {"code": code, "math": math, "(none)": nothing}
        assert run.plan(round_)["groups"] == {"by": "source", "prompts": prompts}
        runs.step(run)


def test_groups_stay_with_prompts_in_a_new_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rescored(run: Run, state: Json, *others: Any) -> tuple[dict[str, Any], None]:
        order = Order(run.folder / "order.arrow")
        build(run.next_order, run.scored, "gc_angle", ascending=bool(int(state["round"]) % 2 == 0))
        assert Order(run.next_order).rows.tolist() != order.rows.tolist()
        return {"order": Order(run.next_order).digest}, None

    monkeypatch.setattr(rounds, "rescore", rescored)
    run = begin(tmp_path, strategy="gain-rl", rescore={"what": "full"}, budget=10)
    for round_ in range(5):
        assert sources_of(run, round_) == {"code": 2, "math": 6, None: 2}
        runs.step(run, checkpoint="checkpoint")


@pytest.mark.parametrize(
    ("values", "kind", "counts"),
    [
        ([True] * 40 + [False] * 80, pa.bool_(), {"false": 8, "true": 4}),
        ([3] * 30 + [11] * 90, pa.int16(), {"11": 9, "3": 3}),
        (["a"] * 60 + ["b"] * 60, pa.dictionary(pa.int8(), pa.string()), {"a": 6, "b": 6}),
    ],
)
def test_texts_whole_numbers_and_true_or_false_are_groups(
    tmp_path: Path, values: list[Any], kind: pa.DataType, counts: dict[str, int]
) -> None:
    inner = pa.StructArray.from_arrays([pa.array(values, kind)], ["level"])
    run = begin(tmp_path, {"metadata": inner}, stratify="metadata.level", budget=12)
    assert run.plan(0)["groups"]["prompts"] == counts


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "column": ({"stratify": "sorce"}, "has no such column; similar: source."),
    "kind": ({"stratify": "gc_angle"}, "--stratify gc_angle: it holds float, not names of groups."),
    "one": ({"stratify": "one"}, "--stratify one: it has one group only; leave --stratify out."),
    "embedding": ({"stratify": "embedding"}, "has no gc_embedding: score it with `--signals "),
    "clusters": ({"clusters": 4}, "clusters goes with --stratify embedding."),
    "weights": ({"stratify": "none", "group_weights": {"code": 1}}, "--group-weights goes with --strat"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_groups_that_cannot_be_kept_are_refused_and_leave_nothing(tmp_path: Path, name: str) -> None:
    options, sentence = REFUSED[name]
    source = {"source": pa.array(SOURCES), "one": pa.array(["x"] * ROWS)}
    with pytest.raises(InputError) as caught:
        begin(tmp_path, source, **options)
    assert sentence in str(caught.value)
    assert not (tmp_path / "run").exists()


class Own(Selector):
    """Ranks of its own, which know of no groups."""

    def draw(self, round_: int) -> Any:
        return np.arange(self.pool.budget)


def test_a_users_strategy_that_breaks_the_shares_is_refused(tmp_path: Path) -> None:
    sentence = "drew 10 prompts of group 'code', and with --stratify source round 0 has 2 of it. Pool.draw"
    with pytest.raises(InputError, match=sentence):
        begin(tmp_path, strategy=f"{__name__}:Own", budget=10)
    assert len(begin(tmp_path, strategy=f"{__name__}:Own", stratify="none").ids(0)) == 11


@pytest.mark.parametrize("damage", ["half", "another label"])
def test_a_damaged_file_of_groups_is_refused(tmp_path: Path, damage: str) -> None:
    run = begin(tmp_path)
    path = run.folder / "groups.arrow"
    if damage == "half":
        path.write_bytes(path.read_bytes()[:200])
    else:
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        labels = table.column("group").to_pylist()
        table = pa.table({"group": pa.array([1 - labels[0], *labels[1:]], pa.int32())}, schema=table.schema)
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    words = {"half": "is damaged", "another label": "its bytes do not match the hash in it; restore it, or"}
    with pytest.raises((OutputError, StorageError), match=words[damage]):
        runs.step(run)


def planted(folder: Path, sizes: list[int]) -> tuple[Path, np.ndarray[Any, np.dtype[np.int64]]]:
    """A set whose embeddings make groups of these sizes beside one loud direction of no meaning."""
    random = np.random.default_rng(1)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    means = 3 * random.normal(size=(len(sizes), 24))
    points = means[labels] + 0.3 * random.normal(size=(len(labels), 24))
    points[:, 0] = 6 * random.normal(size=len(labels))
    return embedded.make_set(folder / "set", points), labels


def test_clusters_of_embeddings_are_the_planted_groups(tmp_path: Path) -> None:
    path, labels = planted(tmp_path, [40, 90, 60, 10])
    made = groups.cluster(ScoredSet(path), 4, seed=3)
    sizes = [list(Counter(labels[made == each].tolist()).values()) for each in range(4)]
    assert sizes == [[90], [60], [40], [10]]
    assert groups.cluster(ScoredSet(path), 4, seed=3).tolist() == made.tolist()


def test_a_cluster_of_a_few_prompts_is_dissolved(tmp_path: Path) -> None:
    path, labels = planted(tmp_path, [100, 97, 3])  # an eighth of an even share is 8
    made = groups.cluster(ScoredSet(path), 3, seed=0)
    assert np.bincount(made).min() > 8
    assert set(made[labels == 0].tolist()).isdisjoint(made[labels == 1].tolist())


def test_prompts_that_are_all_alike_are_one_cluster_and_refused(tmp_path: Path) -> None:
    embedded.make_set(tmp_path / "set", np.ones((30, 8)))
    with pytest.raises(InputError, match="--stratify embedding: it has one group only"):
        runs.begin(tmp_path, strategy="uniform", stratify="embedding")


def test_clusters_are_made_once_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, labels = planted(tmp_path, [40, 90, 60])
    run = runs.begin(tmp_path, strategy="posterior", stratify="embedding", clusters=3, budget=19)
    monkeypatch.setattr(groups, "cluster", None)
    for round_ in range(3):
        assert Counter(labels[run.rows(round_)].tolist()) == {0: 4, 1: 9, 2: 6}
        assert run.plan(round_)["groups"]["prompts"] == {"cluster 0": 9, "cluster 1": 6, "cluster 2": 4}
        run = runs.step(run)


def test_the_command_takes_weights_as_text_and_as_a_table(tmp_path: Path) -> None:
    a_set(tmp_path)
    shared = ["schedule", "start", tmp_path / "set", "--strategy", "uniform", "--budget", 10, "--rounds", 2]
    text = "code=.3, math=.5,(none)=.2"
    done = gaincurate(*shared, "--run", tmp_path / "a", "--stratify", "source", "--group-weights", text)
    assert done.exit_code == 0
    shown = "each round keeps the shares of 3 groups by source: math 50.0%, code 30.0%, (none) 20.0%"
    assert shown in " ".join(done.stderr.split())
    assert sources_of(Run(tmp_path / "a"), 0) == {"code": 3, "math": 5, None: 2}
    table = 'stratify = "source"\n[group_weights]\ncode = 3\nmath = 5\n"(none)" = 2\n'
    (tmp_path / "options.toml").write_text(table)
    assert gaincurate(*shared, "--run", tmp_path / "b", "--config", tmp_path / "options.toml").exit_code == 0
    assert runs.plans(Run(tmp_path / "a")) == runs.plans(Run(tmp_path / "b"))
    status = gaincurate("schedule", "status", tmp_path / "a").stdout
    assert "uniform, within the groups of source, 10 of 120 prompts a round" in " ".join(status.split())
    bad = gaincurate(*shared, "--run", tmp_path / "c", "--stratify", "source", "--group-weights", "code")
    sentence = "--group-weights code: expected NAME=NUMBER, as in code=.3,math=.7."
    assert (bad.exit_code, sentence in " ".join(bad.stderr.split())) == (2, True)


COUNT = 60
KINDS = [["web", "books", "code", None][row % 4] for row in range(COUNT)]
WHERE = "source != 'web' and gc_difficulty < .9"
HOLDS = {row for row in range(COUNT) if KINDS[row] in ("books", "code") and row % 10 < 9}


def begin_where(folder: Path, **options: Any) -> Run:
    if not (folder / "set").exists():
        angles = {"gc_angle": [((7 * row) % COUNT) / COUNT for row in range(COUNT)]}
        lengths = [3 + row % 11 for row in range(COUNT)]
        path = column_sets.column_set(folder / "set", lengths, angles, {"source": pa.array(KINDS)})
        scored = ScoredSet(path)
        rates = pa.array([row % 10 / 10 for row in range(COUNT)])
        scored.add_column("gc_difficulty", scored.column("gc_id").to_pylist(), rates, {})
    given: dict[str, Any] = {"strategy": "uniform", "budget": 8, "rounds": 5, "where": WHERE}
    return runs.begin(folder, **(given | options))


@pytest.mark.parametrize("stratify", ["none", "source"])
@pytest.mark.parametrize(
    ("strategy", "own"),
    [("uniform", {}), ("gain-rl", {"sigma": "0.1N"}), ("falling", {}), ("posterior", {"preset": "mapp"})],
)
def test_no_other_row_is_drawn(tmp_path: Path, strategy: str, own: dict[str, Any], stratify: str) -> None:
    run = begin_where(tmp_path, strategy=strategy, options=own, stratify=stratify)
    for round_ in range(5):
        rows = run.rows(round_)
        assert len(set(rows)) == 8
        assert set(rows) <= HOLDS
        runs.step(run)


@pytest.mark.parametrize(
    "options",
    [
        {"where": "gc_difficulty >= 0"},  # nothing is left out
        {"where": "source == 'web'", "stratify": "source"},  # groups without a row
    ],
)
@pytest.mark.parametrize("strategy", ["uniform", "file-order"])
def test_a_group_without_rows_is_no_damage(tmp_path: Path, strategy: str, options: dict[str, Any]) -> None:
    run = begin_where(tmp_path, strategy=strategy, rounds=2, **options)
    assert len(runs.step(run).rows(1)) == 8


def test_uniform_has_every_row_once_in_a_pass(tmp_path: Path) -> None:
    run = begin_where(tmp_path, budget=9, rounds=3)
    drawn = run.rows(0)
    for round_ in (1, 2):
        drawn += runs.step(run).rows(round_)
    assert len(HOLDS) == 27
    assert set(drawn) == HOLDS


def test_shares_of_groups_are_those_of_the_rows_that_are_left(tmp_path: Path) -> None:
    run = begin_where(tmp_path, stratify="source", budget=9)
    books = sum(KINDS[row] == "books" for row in HOLDS)
    prompts = run.plan(0)["groups"]["prompts"]
    assert sum(prompts.values()) == 9
    assert abs(prompts["books"] - 9 * books / len(HOLDS)) < 1
    assert prompts["web"] == prompts["(none)"] == 0
    assert "groups" not in begin_where(tmp_path, run=tmp_path / "other").plan(0)


def test_the_condition_is_seen_once(tmp_path: Path) -> None:
    run = begin_where(tmp_path)
    scored = ScoredSet(tmp_path / "set")
    ids = scored.column("gc_id").to_pylist()
    scored.add_column("gc_difficulty", ids, pa.array([1.0] * COUNT), {})  # now it holds for none
    assert set(runs.step(run).rows(1)) <= HOLDS


def test_the_command_says_how_many_rows_and_the_status_the_condition(tmp_path: Path) -> None:
    begin_where(tmp_path, run=tmp_path / "other")
    rates = tmp_path / "rates.parquet"
    ids = ScoredSet(tmp_path / "set").column("gc_id").to_pylist()
    pq.write_table(pa.table({"gc_id": ids[:40], "pass_rate": [row % 5 / 4 for row in range(40)]}), rates)
    shared = ["schedule", "start", tmp_path / "set", "--strategy", "uniform", "--budget", 4, "--rounds", 2]
    asked = ["--where", "0 < pass_rate < 1", "--rollouts", rates, "--run", tmp_path / "run", "--model", "m"]
    done = gaincurate(*shared, *asked)
    assert done.exit_code == 0, done.stderr
    assert "--where holds for 24 of 60 rows (20 have no value for it)" in done.stderr
    assert "warning" not in done.stderr
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(rates)[:29], few)
    asked[3], asked[5] = few, tmp_path / "second"
    warned = gaincurate(*shared, *asked).stderr
    assert "warning: 31 of 60 rows have no pass_rate. `gaincurate difficulty predict` writes" in warned
    rates.unlink()  # the run needs it no more
    assert "4 of 24 prompts" in done.stdout
    shown = gaincurate("schedule", "status", tmp_path / "run").stdout
    assert "uniform, where 0 < pass_rate < 1, 4 of 24 prompts a round" in " ".join(shown.split())
    (listed,) = json.loads(gaincurate("ls", tmp_path / "run", "--json").stdout)
    assert listed["rows"] == 24
    assert {row % 5 for row in Run(tmp_path / "run").rows(0)} <= {1, 2, 3}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"where": "source == 'wbe'"}, "--where \"source == 'wbe'\" holds for 0 of 60 rows \\(15 have no value for it\\), and a round has 8\\."),
        ({"where": "sorce == 'web'"}, "there is no column 'sorce'; similar: source"),
        ({"where": "source = 'web'"}, "and equal as =="),
        ({"strategy": "dots", "options": {"reuse_references": 0.1, "group_column": "source", "step_prompts": 4}}, "--where and reuse_references do not go together"),
        ({"where": None, "rollouts": Path("rates")}, "--rollouts rates goes with --where"),
        ({"stratify": "source", "group_weights": {"web": 1, "books": 0, "code": 0, "(none)": 1}}, "take a smaller budget"),
    ],
)  # fmt: skip
def test_what_does_not_go_is_one_sentence(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        begin_where(tmp_path, **options)
    assert not (tmp_path / "run").exists()


def test_dots_observes_references_of_the_whole_set_and_draws_only_from_the_rest(tmp_path: Path) -> None:
    embedded.make_set(tmp_path / "set", np.random.default_rng(0).normal(size=(60, 8)))
    where = "question in ['group 1', 'group 3']"
    run = runs.begin(tmp_path, strategy="dots", budget=8, rounds=2, options=dots_runs.OPTIONS, where=where)
    references = {int(gc_id[2:]) for gc_id in dots_runs.asked_of(run, 0)}
    assert any(row % 5 not in (1, 3) for row in references)
    dots_runs.answer(run, 0)
    advance(run)
    rows = Run(run.folder).rows(0)
    assert len(set(rows)) == 8
    assert {row % 5 for row in rows} <= {1, 3}

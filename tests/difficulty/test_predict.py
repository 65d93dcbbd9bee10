"""Fitting and predicting on the command line: the column, what is printed, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import embedded
import gaincurate
import sets
from command import run
from gaincurate.difficulty.embeddings import matrix
from gaincurate.difficulty.pass_rates import read_pass_rates
from gaincurate.difficulty.predict import make, predict
from gaincurate.difficulty.predictor import load_adapter, probability
from gaincurate.errors import InputError
from synthetic import World, world

ROWS = 240


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def known() -> World:
    return world(ROWS, width=32, policies=3, seed=1)


@pytest.fixture
def scored(tmp_path: Path, known: World) -> Path:
    return embedded.make_set(tmp_path / "set", known.embeddings)


@pytest.fixture
def observed(tmp_path: Path, known: World) -> Path:
    """A hundred rows of the third policy."""
    return embedded.write_rates(tmp_path / "observed.parquet", np.arange(0, 200, 2), known.losses[2])


@pytest.fixture
def adapter(tmp_path: Path, scored: Path, known: World) -> Path:
    files = [embedded.write_rates(tmp_path / f"{i}.parquet", range(ROWS), known.losses[i]) for i in (0, 1)]
    result = run(
        "difficulty", "fit", scored, "--outcomes", files[0], "--outcomes", files[1], "-o", tmp_path / "adapter",
        "--epochs", "3", "--batch", "64", "--references", "64",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return tmp_path / "adapter"


def column(scored: Path) -> list[float]:
    found: list[float] = gaincurate.open_scores(scored).column("gc_difficulty").to_pylist()
    return found


METHODS: list[tuple[str, ...]] = [
    ("--method", "gp"),
    ("--method", "group-mean", "--group-column", "question"),
    ("--adapter",),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m[-1])
def test_every_row_gets_a_failure_rate_and_observed_ones_keep_theirs(
    scored: Path, observed: Path, adapter: Path, known: World, method: tuple[str, ...]
) -> None:
    chosen = (*method, adapter) if method == ("--adapter",) else method
    result = run("difficulty", "predict", scored, "--outcomes", observed, *chosen, "--references", "60")
    assert result.exit_code == 0, result.stderr
    values = column(scored)
    assert len(values) == ROWS
    assert all(0 <= value <= 1 for value in values)
    assert [values[i] for i in range(0, 200, 2)] == pytest.approx(known.observed[2, 0:200:2])
    opened = gaincurate.open_scores(scored)
    assert opened.schema.field("gc_difficulty").type == pa.float32()
    how = opened.computed_columns()["gc_difficulty"]["how"]
    assert (how["method"], how["observed"], how["references"]) == (
        "adapter" if method == ("--adapter",) else method[1],
        100,
        60,
    )
    assert how["outcomes"]["file"] == "observed.parquet"
    assert "60 references, one half from the other, means of ten halves" in result.stdout
    assert "40 observed prompts that are no references" in result.stdout
    for word in ("pearson", "spearman", "brier", "noise ceiling", "observed"):
        assert word in result.stdout
    # A second command makes the same column, and replaces the first one's.
    assert (
        run("difficulty", "predict", scored, "--outcomes", observed, *chosen, "--references", "60").exit_code
        == 0
    )
    assert column(scored) == values


def test_d_is_the_failure_rate_so_a_target_of_a_quarter_finds_prompts_that_fail_a_quarter_of_the_time(
    tmp_path: Path,
) -> None:
    # Two clusters: prompts of the first fail in 2 of 8 rollouts, those of the second in 6.
    random = np.random.default_rng(0)
    kind = np.arange(80) % 2
    embeddings = (
        np.where(kind[:, None] == 0, 1.0, -1.0) * np.eye(8)[0] * 4 + random.normal(size=(80, 8)) * 0.3
    )
    scored = embedded.make_set(tmp_path / "set", embeddings)
    losses = np.where(kind == 0, 2.0, 6.0)
    observed = embedded.write_rates(tmp_path / "o.parquet", range(40), losses)
    fitted = run("difficulty", "fit", scored, "--outcomes", observed, "-o", tmp_path / "a", "--epochs", "60")
    assert fitted.exit_code == 0, fitted.stderr
    for method in (("--method", "gp"), ("--adapter", tmp_path / "a")):
        assert run("difficulty", "predict", scored, "--outcomes", observed, *method).exit_code == 0
        d = np.array(column(scored))
        alpha = 0.25
        nearest = np.argsort(np.abs(d - alpha), kind="stable")[:40]
        assert set(kind[nearest].tolist()) == {0}
        right, turned = (np.abs(d[40:] - rate).mean() for rate in (losses[40:] / 8, 1 - losses[40:] / 8))
        assert right < 0.15 < 0.35 < turned


def test_predictions_from_embeddings_that_say_nothing_are_named_as_such(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scored = embedded.make_set(tmp_path / "set", random.normal(size=(200, 8)))
    observed = embedded.write_rates(
        tmp_path / "o.parquet", range(150), random.integers(0, 9, 150).astype(float)
    )
    done = run("difficulty", "predict", scored, "--outcomes", observed)
    assert done.exit_code == 0, done.stderr
    assert " ".join(done.stdout.split()).count("warning: these predictions are no") == 1


def test_predictions_are_those_of_the_module_on_the_drawn_references(
    scored: Path, observed: Path, adapter: Path, known: World
) -> None:
    opened, (rates,) = gaincurate.open_scores(scored), read_pass_rates(observed)
    loaded = load_adapter(adapter)
    found = predict(opened, rates, "adapter", adapter=loaded, references=30, seed=4)
    assert (len(found.references), found.on_references.count) == (30, 30)
    assert found.references == sorted(found.references)
    assert found.references != predict(opened, rates, "gp", references=30, seed=5).references
    place = {name: i for i, name in enumerate(embedded.names(ROWS))}
    z = torch.from_numpy(known.embeddings.astype(np.float16).astype(np.float32))
    rows = [place[name] for name in found.references]
    d = torch.from_numpy(known.observed[2, rows]).float()
    with torch.inference_mode():
        expected = probability(loaded.predictor(z, z[rows], d)).numpy()
    unseen = [i for i in range(ROWS) if not (i % 2 == 0 and i < 200)]
    np.testing.assert_allclose(found.values[unseen], expected[unseen], atol=1e-6)
    with torch.inference_mode():
        alone = []
        for i in range(30):
            others = [k for k in range(30) if k != i]
            reference = z[[rows[k] for k in others]]
            alone.append(probability(loaded.predictor(z[rows[i]][None], reference, d[others])).item())
    fitted = make("adapter", opened, found.references, known.observed[2, rows], adapter=loaded)
    np.testing.assert_allclose(fitted.leave_one_out(), alone, atol=1e-6)


def test_group_means_are_what_their_name_says(scored: Path, observed: Path, known: World) -> None:
    opened, (rates,) = gaincurate.open_scores(scored), read_pass_rates(observed)
    rows = np.arange(0, 200, 2)
    means = predict(opened, rates, "group-mean", group_column="question").values
    for i in (1, 3, 5, 201, 230):
        same = [k for k in rows if k % 5 == i % 5]
        assert means[i] == pytest.approx(known.observed[2, same].mean())
    only = make("group-mean", opened, embedded.names(6), np.arange(6) / 8, group_column="question")
    alone = [5 / 8, 14 / 5 / 8, 13 / 5 / 8, 12 / 5 / 8, 11 / 5 / 8, 0.0]
    assert only.leave_one_out().tolist() == pytest.approx(alone)
    assert only.rows(opened.take([5, 10, 7])).tolist() == pytest.approx([2.5 / 8, 2.5 / 8, 2 / 8])


def test_without_a_method_it_is_the_gaussian_process(scored: Path, observed: Path) -> None:
    values = []
    for given in ((), ("--method", "gp")):
        result = run("difficulty", "predict", scored, "--outcomes", observed, *given)
        assert result.exit_code == 0, result.stderr
        assert "the others predicted by gp" in result.stdout
        values.append(column(scored))
    assert values[0] == values[1]


def test_a_report_as_json_and_a_file_of_several_rounds(tmp_path: Path, scored: Path, known: World) -> None:
    lines = []
    for round_ in (0, 1):
        for i in range(60):
            for sample in range(8):
                reward = int(sample >= known.losses[round_, i])
                lines.append({"gc_id": f"id{i:05d}", "round": round_, "sample": sample, "reward": reward})
    path = tmp_path / "outcomes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run("difficulty", "predict", scored, "--outcomes", path, "--method", "gp", "--json")
    assert result.exit_code == 0, result.stderr
    assert "round 1 is the newest of 2 and the one taken" in result.stderr
    found = json.loads(result.stdout)
    assert (found["rows"], found["observed"], found["on_others"]) == (ROWS, 60, None)
    assert found["on_references"]["count"] == 60
    assert sum(b["count"] for b in found["on_references"]["reliability"]) == 60
    assert column(scored)[:60] == pytest.approx(known.observed[1, :60])
    fitted = run(
        "difficulty", "fit", scored, "--outcomes", path, "-o", tmp_path / "a", "--epochs", "1", "--json",
    )  # fmt: skip
    assert fitted.exit_code == 0, fitted.stderr
    report = json.loads(fitted.stdout)
    assert [policy["name"] for policy in report["policies"]] == [
        "outcomes.jsonl, round 0",
        "outcomes.jsonl, round 1",
    ]
    assert (report["instances"], report["prompts"]) == (108, 54)
    assert (
        run("difficulty", "predict", scored, "--outcomes", path, "--adapter", tmp_path / "a").exit_code == 0
    )


def test_fit_reads_prompts_from_several_sets(tmp_path: Path, known: World) -> None:
    first = embedded.make_set(tmp_path / "first", known.embeddings[:100])
    whole = embedded.make_set(tmp_path / "whole", known.embeddings)
    rates = embedded.write_rates(tmp_path / "r.parquet", range(ROWS), known.losses[0])
    made = []
    for i, given in enumerate(([whole], [first, whole], [whole, first])):
        result = run(
            "difficulty", "fit", *given, "--outcomes", rates, "-o", tmp_path / f"a{i}", "--epochs", "1"
        )
        assert result.exit_code == 0, result.stderr
        made.append((tmp_path / f"a{i}/adapter.safetensors").read_bytes())
    assert made[0] == made[1] == made[2]
    alone = run("difficulty", "fit", first, "--outcomes", rates, "-o", tmp_path / "b")
    assert alone.exit_code == 2
    assert "140 of 240 prompts with outcomes are in no scored set given, 'id00100' among them" in alone.stderr
    assert not (tmp_path / "b").exists()


def test_rates_of_unknown_numbers_of_rollouts_have_no_ceiling(
    tmp_path: Path, scored: Path, known: World
) -> None:
    table = pa.table({"gc_id": embedded.names(50), "pass_rate": 1 - known.observed[2, :50]})
    pq.write_table(table, tmp_path / "r.parquet")
    result = run("difficulty", "predict", scored, "--outcomes", tmp_path / "r.parquet", "--method", "gp")
    assert result.exit_code == 0
    assert " - " in next(line for line in result.stdout.splitlines() if "  50 references" in line)


def bad(*arguments: Any) -> str:
    result = run("difficulty", *arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, scored: Path, observed: Path, adapter: Path, known: World
) -> None:
    ask = ("predict", scored, "--outcomes", observed)
    assert "--target variance does not go with --adapter" in bad(
        *ask, "--adapter", adapter, "--target", "variance"
    )
    assert "give one of --adapter" in bad(*ask, "--method", "gp", "--adapter", adapter)
    assert "--group-column and the method group-mean go together" in bad(
        *ask, "--method", "gp", "--group-column", "question"
    )
    assert "--group-column and the method group-mean go together" in bad(*ask, "--method", "group-mean")
    assert "has no column 'kind'" in bad(*ask, "--method", "group-mean", "--group-column", "kind")
    assert "--reward-range 1,0: the first must be less than the second" in bad(
        *ask, "--method", "gp", "--reward-range", "1,0"
    )
    other = embedded.make_set(tmp_path / "other", known.embeddings, weights="v" * 32)
    assert "the adapter was fitted on embeddings of some-model (32 wide, weights wwwwwwww), and" in bad(
        "predict", other, "--outcomes", observed, "--adapter", adapter
    )
    narrow = embedded.make_set(tmp_path / "narrow", known.embeddings[:, :8])
    assert "(8 wide" in bad("predict", narrow, "--outcomes", observed, "--adapter", adapter)
    assert "has embeddings of another model than" in bad(
        "fit", scored, other, "--outcomes", observed, "-o", tmp_path / "x"
    )
    few = embedded.write_rates(tmp_path / "few.parquet", range(2), known.losses[0])
    assert "2 observed prompts are too few to predict from" in bad(
        "predict", scored, "--outcomes", few, "--method", "gp"
    )
    assert "prompts to train on and 16 are needed" in bad(
        "fit", scored, "--outcomes", few, "-o", tmp_path / "x", "--held-out", "0"
    )
    assert "already holds something else" in bad("fit", scored, "--outcomes", observed, "-o", scored)
    models = pa.table({"gc_id": ["id00000"] * 2, "reward": [1, 0], "model": ["x", "y"]})
    pq.write_table(models, tmp_path / "models.parquet")
    assert "has 2 models (x, y, ...); a prediction is for one" in bad(
        "predict", scored, "--outcomes", tmp_path / "models.parquet", "--method", "gp"
    )
    assert "gc_difficulty" not in gaincurate.open_scores(scored).schema.names


def test_a_shard_without_rows_adds_none(tmp_path: Path, adapter: Path, known: World) -> None:
    scored = embedded.make_set(tmp_path / "small", known.embeddings[:4])
    opened = gaincurate.open_scores(scored)
    assert [len(table) for table in opened.tables()] == [2, 2, 0]
    (rates,) = read_pass_rates(embedded.write_rates(tmp_path / "r.parquet", range(3), known.losses[0]))
    assert len(predict(opened, rates, "gp").values) == 4
    assert len(predict(opened, rates, "adapter", adapter=load_adapter(adapter)).values) == 4


def test_a_row_without_an_embedding_is_named(tmp_path: Path) -> None:
    column = pa.array([[1.0, 2.0], None], pa.list_(pa.float16(), 2))
    table = pa.table({"gc_id": ["a", "b"], "gc_embedding": column})
    with pytest.raises(InputError, match=r"^here: 1 rows have no gc_embedding, b among them\."):
        matrix(table, Path("here"))
    assert matrix(table.slice(0, 1), Path("here")).tolist() == [[1.0, 2.0]]


def test_a_set_without_embeddings_is_told_how_to_get_them(tmp_path: Path) -> None:
    plain = sets.make_set(tmp_path / "set", [[sets.scored_row(name) for name in embedded.names(5)]])
    observed = embedded.write_rates(tmp_path / "o.parquet", range(5), np.arange(5.0))
    said = bad("predict", plain, "--outcomes", observed, "--method", "gp")
    assert "score it with `--signals angle,nll,entropy,embedding`" in said
    done = run(
        "difficulty", "predict", plain, "--outcomes", observed, "--method", "group-mean", "--group-column",
        "question",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    unknown = embedded.write_rates(tmp_path / "u.parquet", range(3, 8), np.arange(9.0))
    assert "3 of 5 prompts with outcomes are not in" in bad(
        "predict", plain, "--outcomes", unknown, "--method", "group-mean", "--group-column", "question"
    )

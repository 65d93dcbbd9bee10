"""Fitting and predicting on the command line: the column, what is printed, and bad input."""

from __future__ import annotations

import json
from itertools import product
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
from gaincurate.difficulty.pass_rates import PassRates, read_pass_rates
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


METHODS: dict[str, tuple[str, ...]] = {
    "gp": (),
    "group-mean": ("--method", "group-mean", "--group-column", "question"),
    "adapter": ("--adapter",),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_row_gets_a_failure_rate_and_observed_ones_keep_theirs(
    scored: Path, observed: Path, adapter: Path, known: World, method: str
) -> None:
    command = ["difficulty", "predict", scored, "--outcomes", observed, "--references", "60"]
    command += [*METHODS[method], *([adapter] if method == "adapter" else [])]
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    values = column(scored)
    assert len(values) == ROWS
    assert all(0 <= value <= 1 for value in values)
    assert [values[i] for i in range(0, 200, 2)] == pytest.approx(known.observed[2, 0:200:2])
    opened = gaincurate.open_scores(scored)
    assert opened.schema.field("gc_difficulty").type == pa.float32()
    how = opened.computed_columns()["gc_difficulty"]["how"]
    assert (how["method"], how["observed"], how["references"]) == (method, 100, 60)
    assert how["outcomes"]["file"] == "observed.parquet"
    assert "60 references, one half from the other, means of ten halves" in result.stdout
    assert "40 observed prompts that are no references" in result.stdout
    for word in ("pearson", "spearman", "brier", "noise ceiling", "observed"):
        assert word in result.stdout
    # A second command makes the same column, and replaces the first one's.
    assert run(*command).exit_code == 0
    assert column(scored) == values


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
    failure = known.observed[2, rows]
    references = PassRates("p", found.references, 1 - failure, failure, counted=False)
    fitted = make("adapter", opened, references, adapter=loaded)
    np.testing.assert_allclose(fitted.leave_one_out(), alone, atol=1e-6)


def test_group_means_are_what_their_name_says(scored: Path, observed: Path, known: World) -> None:
    opened, (rates,) = gaincurate.open_scores(scored), read_pass_rates(observed)
    rows = np.arange(0, 200, 2)
    means = predict(opened, rates, "group-mean", group_column="question").values
    for i in (1, 3, 5, 201, 230):
        same = [k for k in rows if k % 5 == i % 5]
        assert means[i] == pytest.approx(known.observed[2, same].mean())
    six = PassRates("p", embedded.names(6), 8 - np.arange(6.0), np.arange(6.0))
    only = make("group-mean", opened, six, group_column="question")
    alone = [5 / 8, 14 / 5 / 8, 13 / 5 / 8, 12 / 5 / 8, 11 / 5 / 8, 0.0]
    assert only.leave_one_out().tolist() == pytest.approx(alone)
    assert only.rows(opened.take([5, 10, 7])).tolist() == pytest.approx([2.5 / 8, 2.5 / 8, 2 / 8])


def test_a_report_as_json_and_a_file_of_several_rounds(tmp_path: Path, scored: Path, known: World) -> None:
    lines = [
        {"gc_id": f"id{i:05d}", "round": k, "sample": sample, "reward": int(sample >= known.losses[k, i])}
        for k, i, sample in product((0, 1), range(60), range(8))
    ]
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
    drawn = ("difficulty", "predict", scored, "--outcomes", path, "--references", 30, "--json", "--seed")
    assert run(*drawn, 1).stdout == run(*drawn, 1).stdout != run(*drawn, 2).stdout
    fitted = run(
        "difficulty", "fit", scored, "--outcomes", path, "-o", tmp_path / "a", "--epochs", "1", "--json",
    )  # fmt: skip
    assert fitted.exit_code == 0, fitted.stderr
    report = json.loads(fitted.stdout)
    names = [policy["name"] for policy in report["policies"]]
    assert names == ["outcomes.jsonl, round 0", "outcomes.jsonl, round 1"]
    assert (report["instances"], report["prompts"]) == (108, 54)
    done = run("difficulty", "predict", scored, "--outcomes", path, "--adapter", tmp_path / "a")
    assert done.exit_code == 0, done.stderr


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


def bad(*arguments: Any) -> str:
    result = run("difficulty", *arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, scored: Path, observed: Path, adapter: Path, known: World
) -> None:
    other = embedded.make_set(tmp_path / "other", known.embeddings, weights="v" * 32)
    narrow = embedded.make_set(tmp_path / "narrow", known.embeddings[:, :8])
    few = embedded.write_rates(tmp_path / "few.parquet", range(2), known.losses[0])
    models = pa.table({"gc_id": ["id00000"] * 2, "reward": [1, 0], "model": ["x", "y"]})
    pq.write_table(models, tmp_path / "models.parquet")
    predicting, fitting = ("predict", scored, "--rollouts", observed), ("-o", tmp_path / "x")
    for said, *command in (
        ("--target variance does not go with --adapter", *predicting, "--adapter", adapter, "--target", "variance"),
        ("give one of --adapter", *predicting, "--method", "gp", "--adapter", adapter),
        ("--group-column and the method group-mean go together", *predicting, "--group-column", "question"),
        ("--group-column and the method group-mean go together", *predicting, "--method", "group-mean"),
        ("has no column 'kind'", *predicting, "--method", "group-mean", "--group-column", "kind"),
        ("--reward-range 1,1: the first must be less than the second", *predicting, "--reward-range", "1,1"),
        ("the adapter was fitted on embeddings of some-model (32 wide, weights wwwwwwww), and", "predict", other, "--outcomes", observed, "--adapter", adapter),
        ("(8 wide", "predict", narrow, "--outcomes", observed, "--adapter", adapter),
        ("has embeddings of another model than", "fit", scored, other, "--outcomes", observed, *fitting),
        ("2 observed prompts are too few to predict from", "predict", scored, "--outcomes", few),
        ("already holds something else", "fit", scored, "--outcomes", observed, "-o", scored),
        ("has 2 models (x, y, ...); a prediction is for one", "predict", scored, "--outcomes", tmp_path / "models.parquet"),
    ):  # fmt: skip
        assert said in bad(*command)
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
    by_group = ("--method", "group-mean", "--group-column", "question")
    plain = sets.make_set(tmp_path / "set", [[sets.scored_row(name) for name in embedded.names(5)]])
    observed = embedded.write_rates(tmp_path / "o.parquet", range(5), np.arange(5.0))
    said = bad("predict", plain, "--outcomes", observed, "--method", "gp")
    assert "score it with `--signals angle,nll,entropy,embedding`" in said
    done = run("difficulty", "predict", plain, "--outcomes", observed, *by_group)
    assert done.exit_code == 0, done.stderr
    unknown = embedded.write_rates(tmp_path / "u.parquet", range(3, 8), np.arange(9.0))
    said = bad("predict", plain, "--outcomes", unknown, *by_group)
    assert "3 of 5 prompts with outcomes are not in" in said

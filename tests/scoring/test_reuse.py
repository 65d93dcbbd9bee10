"""`score --reuse`: the same bytes for rows that are the same, the model's work for the others alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import transformers

import gaincurate
import tiny
from command import run, tree
from gaincurate.core.progress import Progress
from gaincurate.errors import InputError, OutputError
from gaincurate.scoring import signals
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset

ALL = ("angle", "nll", "entropy", "embedding")
Rows = list[dict[str, Any]]


class Sets:
    """Scores rows into folders of their own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model, self.notes = folder, str(model), list[str]()

    def data(self, name: str, rows: Rows) -> str:
        return str(tiny.write_jsonl(self.folder / f"{name}.jsonl", rows))

    def score(self, name: str, rows: Rows, *reuse: str, **options: Any) -> Any:
        given: dict[str, Any] = {"model": self.model, "signals": ALL, "shard_rows": 16, "threads": 1}
        given |= {"device": "cpu", "data": self.data(name, rows), "out": self.folder / name, **options}
        config = ScoreConfig(**given, reuse=[str(self.folder / place) for place in reuse])
        progress = Progress()
        progress.note = self.notes.append  # type: ignore[method-assign, assignment]
        return score_dataset(config, progress)

    def rows(self, name: str) -> dict[str, dict[str, Any]]:
        """The score columns by id, bit by bit."""
        table = gaincurate.open_scores(self.folder / name).to_table()
        scores = table.select([n for n in table.column_names if n.startswith("gc_")])
        bits = {pa.float32(): pa.int32(), pa.float16(): pa.int16()}
        columns = {field.name: scores.column(field.name).combine_chunks() for field in scores.schema}
        columns = {name: values.view(bits.get(values.type, values.type)) for name, values in columns.items()}
        return {row["gc_id"]: row for row in pa.table(columns).to_pylist()}


@pytest.fixture
def sets(tmp_path: Path, tiny_model: Path) -> Sets:
    return Sets(tmp_path, tiny_model)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each batch whose states were measured."""
    rows: list[int] = []
    real = signals.measure

    def counting(*given: Any) -> Any:
        rows.append(len(given[-1]))
        return real(*given)

    monkeypatch.setattr("gaincurate.scoring.worker.measure", counting)
    return rows


@pytest.mark.parametrize(("old", "new"), [(150, 50), pytest.param(1500, 500, marks=pytest.mark.slow)])
def test_new_rows_alone_are_scored(old: int, new: int, sets: Sets, measured: list[int]) -> None:
    rows = tiny.questions(old + new)
    sets.score("old", rows[:old])
    measured.clear()
    changed = [{**row, "source": "web"} for row in reversed(rows[10:])]  # 10 are gone, in another order
    summary = sets.score("new", changed, "old", shard_rows=40)
    assert sum(measured) == summary.scored == new
    assert (summary.rows, summary.reused) == (old + new - 10, old - 10)
    before, after = sets.rows("old"), sets.rows("new")
    same = before.keys() & after.keys()
    assert len(same) == old - 10
    assert all(after[gc_id] == before[gc_id] for gc_id in same)
    sets.score("whole", changed, shard_rows=40)
    expected = gaincurate.open_scores(sets.folder / "whole").column("gc_angle").to_pylist()
    found = gaincurate.open_scores(sets.folder / "new")
    assert found.column("gc_angle").to_pylist() == pytest.approx(expected, abs=1e-5)
    assert [row["question"] for row in found] == [row["question"] for row in changed]
    again = sets.score("new", changed, "old", shard_rows=40)
    assert (again.scored, again.reused) == (0, old - 10)


def test_each_row_takes_the_scores_of_the_first_set_that_has_it(sets: Sets) -> None:
    rows = tiny.questions(48)
    sets.score("a", rows[:20])
    sets.score("b", rows[10:40], shard_rows=7)
    summary = sets.score("new", rows, "a", "b")
    assert (summary.scored, summary.reused) == (8, 40)
    a, b, new = sets.rows("a"), sets.rows("b"), sets.rows("new")
    assert all(new[gc_id] == {**b, **a}[gc_id] for gc_id in a.keys() | b.keys())
    sets.model = str(shutil.copytree(sets.model, sets.folder / "renamed"))  # and the same
    summary = sets.score("fewer", rows, "new", signals=("angle", "embedding"))
    assert (summary.scored, summary.reused) == (0, 48)
    assert all(row.items() < new[gc_id].items() for gc_id, row in sets.rows("fewer").items())
    names = {gaincurate.open_scores(sets.folder / name).manifest["prefill"] for name in ("a", "fewer")}
    assert len(names) == 1


def test_a_text_that_changed_under_its_id_is_scored(sets: Sets) -> None:
    rows = [{**row, "key": f"k{i}"} for i, row in enumerate(tiny.questions(20))]
    sets.score("old", rows, id_column="key")
    rows[3] = {**rows[3], "question": "Quite another question?"}
    rows[4] = {**rows[4], "answer": "another answer"}
    summary = sets.score("new", rows, "old", id_column="key")
    assert (summary.scored, summary.reused) == (1, 19)
    before, after = sets.rows("old"), sets.rows("new")
    assert [gc_id for gc_id in after if after[gc_id] != before[gc_id]] == ["k3"]


def test_a_set_that_lacks_a_signal_is_passed_over_with_a_note(sets: Sets) -> None:
    sets.score("old", tiny.questions(20), signals=("angle", "nll"))
    summary = sets.score("new", tiny.questions(20), "old")
    assert (summary.scored, summary.reused) == (20, 0)
    said = "it has no entropy and no embedding, so its rows are scored again"
    assert f"--reuse {sets.folder / 'old'}: {said}" in sets.notes


OTHER: dict[str, dict[str, Any]] = {
    "another model": {"config": transformers.LlamaConfig(**{**tiny.COMMON, "rope_theta": 77.0})},
    "another chat template": {"template": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"},
}


CHANGES: dict[str, dict[str, Any]] = {
    **{words: {} for words in OTHER},
    "another dtype (float32 before, bfloat16 now)": {"dtype": "bfloat16"},
    "another system message": {"system": "Think."},
    "another inter_weight": {"inter_weight": 2.0},
    "another longest prompt": {"max_length": 99},
}


@pytest.mark.parametrize("words", CHANGES)
def test_scores_of_another_kind_are_refused_in_words(words: str, sets: Sets, measured: list[int]) -> None:
    sets.score("old", tiny.questions(8), signals="angle")
    measured.clear()
    options = {"signals": "angle", **CHANGES[words]}
    if words in OTHER:
        options["model"] = str(tiny.save_model(sets.folder / "other/tiny-llama", **OTHER[words]))
    with pytest.raises(InputError) as caught:
        sets.score("new", tiny.questions(9), "old", **options)
    assert str(caught.value) == (
        f"{words}: this run would not give the scores of --reuse {sets.folder / 'old'}. Repeat the options of "
        "that set, or leave --reuse out and score every row."
    )
    assert not measured
    assert not (sets.folder / "new").exists()
    with pytest.raises(OutputError) as refused:
        sets.score("old", tiny.questions(8), **options)
    assert str(refused.value).startswith(f"{words}: {sets.folder / 'old'} holds scores of another run. ")


def test_a_folder_with_another_set_says_how_the_data_differ_and_names_the_option(sets: Sets) -> None:
    rows = [{**row, "prompt": row["question"]} for row in tiny.questions(60)]
    out = sets.folder / "old"
    sets.score("old", rows[:40], signals="angle")
    command = ["score", sets.data("more", rows), "-m", sets.model, "-o", out, "--threads", 1]
    command += ["--device", "cpu", "--shard-rows", 16]
    sentence = (
        f"holds scores of another run. Give another --out, where --reuse {out} takes those of equal rows, repeat "
        "the first run's options, or start over with --overwrite."
    )
    plain, verbose = run(*command), run(*command, "-v")
    assert plain.stderr.splitlines()[-1] == f"error: 20 rows more: {out} {sentence}"
    assert verbose.stderr.splitlines()[-1] == "  source.rows was 40 and is now 60"
    column = run(*command, "--limit", 40, "--prompt-column", "question")
    words = "other data, another prompt column (prompt before, question now)"
    assert column.stderr.splitlines()[-1] == f"error: {words}: {out} {sentence}"


def test_a_run_goes_on_with_the_sets_that_it_began_with_alone(sets: Sets) -> None:
    rows = tiny.questions(40)
    sets.score("old", rows[:30])
    sets.score("other", rows[:35])
    sets.score("new", rows, "old")
    whole = tree(sets.folder / "new")
    for name in ("manifest.json", "shard-00001.arrow"):
        (sets.folder / "new" / name).unlink()
    with pytest.raises(OutputError, match="^other --reuse sets: "):
        sets.score("new", rows, "other")
    assert sets.score("new", rows, "old").scored == 2  # of the second shard
    assert tree(sets.folder / "new") == whole


@pytest.mark.slow
def test_several_workers_write_the_same_set_and_count_the_same(sets: Sets) -> None:
    rows = tiny.questions(64)
    sets.score("old", rows[:50])
    one = sets.score("one", rows, "old")
    two = sets.score("two", rows, "old", workers=2)
    assert (two.scored, two.reused) == (one.scored, one.reused) == (14, 50)
    assert tree(sets.folder / "one") == tree(sets.folder / "two")


def test_the_function_and_the_command_take_it(sets: Sets, tiny_model: Path) -> None:
    rows = tiny.questions(20)
    options: dict[str, Any] = {"threads": 1, "device": "cpu"}
    old, new, out = sets.folder / "old", sets.data("new", rows), sets.folder / "out"
    gaincurate.score(sets.data("old", rows[:12]), str(tiny_model), old, **options)
    summary = gaincurate.score(new, str(tiny_model), out, reuse=old, **options)
    assert (summary.scored, summary.reused) == (8, 12)
    command = ["score", new, "-m", tiny_model, "-o", sets.folder / "again", "--threads", 1, "--device", "cpu"]
    said = run(*command, "--reuse", old, "--reuse", out).stdout.splitlines()[0]
    assert said.endswith("is complete: 20 rows, 0 rejected, 20 with scores from --reuse")
    refused = run(*command[:5], old, *command[6:], "--reuse", old, "--overwrite").stderr.splitlines()[-1]
    assert refused == f"error: --overwrite would delete {old}, which this run reads. Give another --out."
    parts = json.loads((out / "manifest.json").read_text())["shards"]
    assert [part["reused"] for part in parts] == [12]

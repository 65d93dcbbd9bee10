"""Whole runs: what is written, what goes on after an interruption, and what is refused and left alone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gaincurate
import tiny
from command import run, tree
from gaincurate.core.locks import Split
from gaincurate.errors import InputError, OutputError
from gaincurate.scoring import pipeline
from gaincurate.scoring.config import ScoreConfig

OTHER: dict[str, Any] = {"layer": 0, "limit": 30, "shard_rows": 4}


class Runs:
    """Scores 40 rows in shards of 8, of which rows 5 and 21 cannot be scored."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model, self.out = folder, str(model), folder / "out"
        rows = tiny.questions(40)
        rows[5]["question"], rows[21]["question"] = " ", None
        self.data = str(tiny.write_jsonl(folder / "rows.jsonl", rows))

    def score(self, name: str = "out", data: str | None = None, **options: Any) -> Any:
        given = {"shard_rows": 8, "on_error": "skip", **options}
        return gaincurate.score(data or self.data, self.model, self.folder / name, **given)

    def tree(self, name: str = "out") -> dict[str, bytes]:
        return tree(self.folder / name)

    def begin(self) -> Any:
        """Fail at a row of the first shard; the identity that is left."""
        with pytest.raises(InputError, match="row 5"):
            self.score(on_error="stop")
        assert sorted(path.name for path in self.out.iterdir()) == [".work", "identity.json"]
        return json.loads((self.out / "identity.json").read_text())


@pytest.fixture
def runs(tmp_path: Path, tiny_model: Path) -> Runs:
    return Runs(tmp_path, tiny_model)


def test_rows_in_are_rows_out_and_rejected_in_order(runs: Runs) -> None:
    summary = runs.score()
    assert (summary.complete, summary.rows, summary.rejected) == (True, 38, 2)
    rows = [row for part in gaincurate.open_scores(runs.out).tables() for row in part.to_pylist()]
    good = [row for i, row in enumerate(tiny.questions(40)) if i not in (5, 21)]
    assert [{k: row[k] for k in ("question", "answer", "level")} for row in rows] == good
    assert len({row["gc_id"] for row in rows}) == 38
    rejected = [json.loads(line) for line in (runs.out / "rejected.jsonl").read_text().splitlines()]
    reasons = [(5, "the prompt is empty"), (21, "the prompt is null")]
    assert [(entry["row"], entry["reason"]) for entry in rejected] == reasons
    assert not (runs.out / ".work").exists()
    first = runs.tree()
    runs.score("b")
    assert runs.tree("b") == first  # the same options give the same bytes
    again = runs.score()
    assert (again.complete, again.scored, runs.tree() == first) == (True, 0, True)


@pytest.mark.slow
def test_parts_in_processes_of_their_own_make_the_same_set(runs: Runs) -> None:
    runs.score("whole")
    options = f"score {runs.data} -m {runs.model} -o {runs.out} --shard-rows 8 --on-error skip"
    command, quiet = [sys.executable, "-m", "gaincurate", *options.split()], subprocess.DEVNULL
    parts = [subprocess.Popen([*command, "--shard", f"{i}/3"], stdout=quiet, stderr=quiet) for i in (1, 2, 3)]
    assert [part.wait() for part in parts] == [0, 0, 0]
    assert runs.tree() == runs.tree("whole")


def test_a_part_alone_does_not_finish_the_set_and_says_so(runs: Runs) -> None:
    runs.out.mkdir()
    (runs.out / ".shard-00000.arrow.99.tmp").touch()  # the first part is at work
    assert not runs.score(split_run=Split(2, 2)).complete
    assert (runs.out / ".shard-00000.arrow.99.tmp").exists()
    names = ["shard-00001.arrow", "shard-00003.arrow"]
    assert sorted(path.name for path in runs.out.glob("shard-*")) == names
    with pytest.raises(OutputError, match="is not finished"):
        gaincurate.open_scores(runs.out)
    assert runs.score().complete


@pytest.mark.parametrize("damage", ["deleted", "cut", "flipped"])
def test_a_lost_or_damaged_shard_is_found_and_made_again(damage: str, runs: Runs) -> None:
    runs.score()
    good, path = runs.tree(), runs.out / "shard-00002.arrow"
    if damage != "deleted":
        raw = bytearray(path.read_bytes())
        raw[raw.find(b"apples")] ^= 1
        path.write_bytes(raw if damage == "flipped" else raw[:-300])
        with pytest.raises(OutputError, match=r"shard-00002.arrow is damaged: .*Delete that file and run"):
            runs.score()
        with pytest.raises(OutputError, match="does not match the manifest"):
            gaincurate.open_scores(runs.out).verify()
    path.unlink()
    assert runs.score().scored == 7
    assert runs.tree() == good


def test_another_identity_is_refused_naming_what_differs(runs: Runs) -> None:
    runs.score()
    before = runs.tree()
    words = r"^another dtype \(float32 before, bfloat16 now\), another layer \(2 before, 0 now\): "
    with pytest.raises(OutputError, match=words) as caught:
        runs.score(dtype="bfloat16", layer=0)
    assert caught.value.data["keys"] == ["dtype", "layer"]
    with pytest.raises(InputError, match=r"--layer 3: the model has layers 0 to 2 \(or -3 to -1\)"):
        runs.score(layer=3)
    with pytest.raises(InputError, match="--max-length 513 is over the 512 positions that .* was trained"):
        runs.score(max_length=513)
    tiny.write_jsonl(Path(runs.data), tiny.questions(41))
    with pytest.raises(OutputError, match="^1 row more: "):
        runs.score()
    assert runs.tree() == before


def test_what_to_do_with_bad_rows_may_change_between_runs(runs: Runs) -> None:
    rows = tiny.questions(40)
    rows[21]["question"] = None
    data = str(tiny.write_jsonl(runs.folder / "b.jsonl", rows))
    with pytest.raises(InputError, match="row 21"):
        runs.score(data=data, on_error="stop")
    assert sorted(p.name for p in runs.out.glob("shard-*")) == ["shard-00000.arrow", "shard-00001.arrow"]
    summary = runs.score(data=data)
    assert (summary.rows, summary.rejected, summary.scored) == (39, 1, 23)


def test_a_prompt_that_truncation_cannot_help_can_be_skipped(tmp_path: Path, tiny_model: Path) -> None:
    long = [{"role": "system", "content": "word " * 200}, {"role": "user", "content": "how many?"}]
    short = [{"role": "user", "content": "how many apples are there " * 40}]
    data = str(tiny.write_jsonl(tmp_path / "a.jsonl", [{"prompt": long}, {"prompt": short}]))
    options = ("--max-length", 100, "--on-overlong", "truncate", "--on-error", "skip")
    result = run("score", data, "-m", tiny_model, "-o", tmp_path / "out", *options)
    assert "is complete: 1 row, 1 rejected, 1 truncated" in result.stdout
    assert "its prefix alone has" in (tmp_path / "out/rejected.jsonl").read_text()
    assert gaincurate.open_scores(tmp_path / "out").column("gc_prompt_tokens").to_pylist() == [100]


def test_overwriting_deletes_our_files_alone_and_nothing_before_the_ids_are_right(runs: Runs) -> None:
    runs.score()
    before = runs.tree()
    with pytest.raises(InputError, match="id column 'level' has the same value"):
        runs.score(overwrite=True, id_column="level")
    assert runs.tree() == before
    assert runs.score(overwrite=True).scored == 38
    (runs.out / "notes.txt").write_text("mine")
    assert runs.score(overwrite=True, layer=1).complete
    assert (runs.out / "notes.txt").read_text() == "mine"
    assert gaincurate.open_scores(runs.out).identity["layer"] == 1
    with pytest.raises(InputError, match="--overwrite would delete "):
        runs.score(data=str(runs.out), overwrite=True)


def test_a_folder_of_something_else_is_refused_and_untouched(runs: Runs) -> None:
    runs.out.mkdir()
    (runs.out / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="already holds 'thesis.tex' and is no scored set"):
            runs.score(overwrite=overwrite)
    assert [path.name for path in runs.out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the file system is read-only")]
)
def test_a_write_that_fails(number: int, reason: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.score("whole")
    real = os.fsync

    def failing(descriptor: int) -> None:
        if len(list(runs.out.glob("shard-*"))) == 2:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    options = f"score {runs.data} -m {runs.model} -o {runs.out} --shard-rows 8 --on-error skip"
    command = options.split()
    result = run(*command)
    assert result.exit_code == 1
    assert any(f"shard-0000{k}.arrow: {reason}. Put that right" in result.stderr for k in (1, 2))
    assert "Traceback" not in result.stderr
    assert not list(runs.out.glob(".shard*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    assert run(*command).exit_code == 0
    assert runs.tree() == runs.tree("whole")


@pytest.mark.parametrize("size", [0, 3, 16, 40])
def test_ids_that_a_power_failure_cut_are_made_again(size: int, runs: Runs) -> None:
    runs.score("whole")
    runs.score(split_run=Split(1, 2))
    os.truncate(runs.out / ".work/ids.bin", size)
    runs.score()
    assert runs.tree() == runs.tree("whole")


def test_other_options_begin_anew_where_nothing_was_scored(runs: Runs) -> None:
    (runs.out / ".work").mkdir(parents=True)  # a killed start left them
    (runs.out / ".identity.json.99.tmp").write_text("{")
    runs.begin()
    before = runs.tree()
    with pytest.raises(InputError, match="id column 'level' has the same value"):
        runs.score(id_column="level")
    assert runs.tree() == before
    runs.score("whole", **OTHER)
    assert runs.score(**OTHER).complete
    assert runs.tree() == runs.tree("whole")


def test_where_anything_of_a_set_is_left_it_is_not_taken_over(runs: Runs) -> None:
    identity = runs.begin()
    for left in ("shard-00009.arrow", "columns/gc_x.json", "rejected.jsonl"):
        (runs.out / left).parent.mkdir(exist_ok=True)
        (runs.out / left).touch()
        before = runs.tree()
        with pytest.raises(OutputError, match="^another layer "):
            runs.score(layer=0)
        assert runs.tree() == before
        (runs.out / left).unlink()
    with pytest.raises(OutputError, match="^another layer "):
        runs.score(layer=0, split_run=Split(1, 2))
    config = ScoreConfig(data=runs.data, model=runs.model, out=runs.out, shard_rows=8)
    with pytest.raises(InputError, match="would not give the same results: layer was 7 and is now 2"):
        pipeline._joined(config, {**identity, "layer": 7})
    (runs.out / "identity.json").write_text(json.dumps({**identity, "kind": "rollouts"}))
    with pytest.raises(OutputError, match="is no scored set: it holds rollouts; give another folder"):
        runs.score()


class Killed(BaseException):
    """No error that anything catches."""


def test_killed_while_it_begins_anew_either_run_goes_on(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, Any]] = [{}, OTHER]
    for number, then in enumerate(options):
        runs.score(f"whole{number}", **then)
    identities = set()
    for place in range(8):
        runs.out, left = runs.folder / f"out{place}", place
        number = place % 2  # whose run goes on
        with pytest.raises(InputError, match="row 5"):
            runs.score(f"out{place}", on_error="stop")

        def dying(real: Any, out: Path = runs.out) -> Any:
            def change(path: Path, *rest: Any, **more: Any) -> Any:
                nonlocal left
                if out in path.parents:
                    left -= 1
                    if left < 0:
                        raise Killed
                return real(path, *rest, **more)

            return change

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", dying(Path.replace))
            patched.setattr(Path, "unlink", dying(Path.unlink))
            with pytest.raises(Killed):
                runs.score(f"out{place}", **OTHER)
        identities.add(json.loads((runs.out / "identity.json").read_text())["layer"])
        assert not list(runs.out.glob("shard-*"))
        assert runs.score(f"out{place}", **options[number]).complete
        assert runs.tree(f"out{place}") == runs.tree(f"whole{number}")
    assert len(identities) == 2, "the identity was written between two of the places"

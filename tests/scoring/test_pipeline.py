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


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = tiny.questions(40)
    rows[5]["question"], rows[21]["question"] = " ", None
    return str(tiny.write_jsonl(tmp_path / "rows.jsonl", rows))


def score(data: str, model: Path, out: Path, **options: Any) -> Any:
    return gaincurate.score(data, str(model), out, **{"shard_rows": 8, "on_error": "skip", **options})


def test_rows_in_are_rows_out_and_rejected_in_order(tmp_path: Path, tiny_model: Path, data: str) -> None:
    summary = score(data, tiny_model, tmp_path / "out")
    assert (summary.complete, summary.rows, summary.rejected) == (True, 38, 2)
    rows = [row for part in gaincurate.open_scores(tmp_path / "out").tables() for row in part.to_pylist()]
    kept = [row for i, row in enumerate(tiny.questions(40)) if i not in (5, 21)]
    assert [{k: row[k] for k in ("question", "answer", "level")} for row in rows] == kept
    assert len({row["gc_id"] for row in rows}) == 38
    rejected = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert [(entry["row"], entry["reason"]) for entry in rejected] == [
        (5, "the prompt is empty"),
        (21, "the prompt is null"),
    ]
    assert not (tmp_path / "out/.work").exists()


def test_the_same_options_give_the_same_bytes_and_a_finished_set_is_left_alone(
    tmp_path: Path, tiny_model: Path, data: str
) -> None:
    score(data, tiny_model, tmp_path / "a")
    score(data, tiny_model, tmp_path / "b")
    first = tree(tmp_path / "a")
    assert first == tree(tmp_path / "b")
    again = score(data, tiny_model, tmp_path / "a")
    assert (again.complete, again.scored) == (True, 0)
    assert tree(tmp_path / "a") == first


@pytest.mark.slow
def test_parts_in_processes_of_their_own_make_the_same_set(
    tmp_path: Path, tiny_model: Path, data: str
) -> None:
    score(data, tiny_model, tmp_path / "whole")
    options = f"score {data} -m {tiny_model} -o {tmp_path / 'out'} --shard-rows 8 --on-error skip"
    command, quiet = [sys.executable, "-m", "gaincurate", *options.split()], subprocess.DEVNULL
    parts = [subprocess.Popen([*command, "--shard", f"{i}/3"], stdout=quiet, stderr=quiet) for i in (1, 2, 3)]
    assert [part.wait() for part in parts] == [0, 0, 0]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_part_alone_does_not_finish_the_set_and_says_so(
    tmp_path: Path, tiny_model: Path, data: str
) -> None:
    summary = score(data, tiny_model, tmp_path / "out", split_run=Split(2, 2))
    assert not summary.complete
    assert sorted(p.name for p in (tmp_path / "out").glob("shard-*")) == [
        "shard-00001.arrow",
        "shard-00003.arrow",
    ]
    with pytest.raises(OutputError, match="is not finished"):
        gaincurate.open_scores(tmp_path / "out")
    assert score(data, tiny_model, tmp_path / "out").complete


@pytest.mark.parametrize("damage", ["deleted", "cut", "flipped"])
def test_a_lost_or_damaged_shard_is_found_and_made_again(
    damage: str, tmp_path: Path, tiny_model: Path, data: str
) -> None:
    out = tmp_path / "out"
    score(data, tiny_model, out)
    good, path = tree(out), out / "shard-00002.arrow"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-300])
    elif damage == "flipped":
        raw = bytearray(path.read_bytes())
        place = raw.find(b"apples")
        raw[place] ^= 1
        path.write_bytes(raw)
    if damage != "deleted":
        with pytest.raises(OutputError, match=r"shard-00002.arrow is damaged: .*Delete that file and run"):
            score(data, tiny_model, out)
        with pytest.raises(OutputError, match="does not match the manifest"):
            gaincurate.open_scores(out).verify()
    path.unlink()
    assert score(data, tiny_model, out).scored == 7
    assert tree(out) == good


def test_another_identity_is_refused_naming_what_differs(tmp_path: Path, tiny_model: Path, data: str) -> None:
    out = tmp_path / "out"
    score(data, tiny_model, out)
    before = tree(out)
    with pytest.raises(
        OutputError,
        match=r"^another dtype \(float32 before, bfloat16 now\), another layer \(2 before, 0 now\): ",
    ) as caught:
        score(data, tiny_model, out, dtype="bfloat16", layer=0)
    assert caught.value.data["keys"] == ["dtype", "layer"]
    tiny.write_jsonl(Path(data), tiny.questions(41))
    with pytest.raises(OutputError, match="^1 row more: "):
        score(data, tiny_model, out)
    assert tree(out) == before


def test_what_to_do_with_bad_rows_may_change_between_runs(
    tmp_path: Path, tiny_model: Path, data: str
) -> None:
    out = tmp_path / "out"
    score(data, tiny_model, tmp_path / "whole")
    rows = tiny.questions(40)
    rows[21]["question"] = None
    tiny.write_jsonl(tmp_path / "b.jsonl", rows)
    with pytest.raises(InputError, match="row 21"):
        score(str(tmp_path / "b.jsonl"), tiny_model, out, on_error="stop")
    assert sorted(p.name for p in out.glob("shard-*")) == ["shard-00000.arrow", "shard-00001.arrow"]
    summary = score(str(tmp_path / "b.jsonl"), tiny_model, out, on_error="skip")
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


def test_overwriting_deletes_our_files_alone_and_nothing_before_the_ids_are_right(
    tmp_path: Path, tiny_model: Path, data: str
) -> None:
    out = tmp_path / "out"
    score(data, tiny_model, out)
    before = tree(out)
    with pytest.raises(InputError, match="id column 'level' has the same value"):
        score(data, tiny_model, out, overwrite=True, id_column="level")
    assert tree(out) == before
    (out / "notes.txt").write_text("mine")
    assert score(data, tiny_model, out, overwrite=True, layer=1).complete
    assert (out / "notes.txt").read_text() == "mine"
    assert gaincurate.open_scores(out).identity["layer"] == 1
    with pytest.raises(InputError, match="--overwrite would delete "):
        score(str(out), tiny_model, out, overwrite=True)


def test_a_folder_of_something_else_is_refused_and_untouched(
    tmp_path: Path, tiny_model: Path, data: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="already holds 'thesis.tex' and is no scored set"):
            score(data, tiny_model, out, overwrite=overwrite)
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the file system is read-only")]
)
def test_a_write_that_fails_is_one_sentence_and_a_rerun_completes(
    number: int, reason: str, tmp_path: Path, tiny_model: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(data, tiny_model, tmp_path / "whole")
    out, real = tmp_path / "out", os.fsync

    def failing(descriptor: int) -> None:
        if len(list(out.glob("shard-*"))) == 2:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    options = ["-m", tiny_model, "-o", out, "--shard-rows", "8", "--on-error", "skip"]
    result = run("score", data, *options)
    assert result.exit_code == 1
    assert f"shard-0000{2}.arrow: {reason}. Put that right" in result.stderr or (
        f"shard-00001.arrow: {reason}" in result.stderr
    )
    assert "Traceback" not in result.stderr
    assert not list(out.glob(".shard*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    assert run("score", data, *options).exit_code == 0
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("size", [0, 3, 16, 40])
def test_ids_that_a_power_failure_cut_are_made_again(
    tmp_path: Path, tiny_model: Path, data: str, size: int
) -> None:
    score(data, tiny_model, tmp_path / "whole")
    score(data, tiny_model, tmp_path / "out", split_run=Split(1, 2))
    os.truncate(tmp_path / "out/.work/ids.bin", size)
    score(data, tiny_model, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_a_killed_start_left_is_no_obstacle(tmp_path: Path, tiny_model: Path, data: str) -> None:
    out = tmp_path / "out"
    (out / ".work").mkdir(parents=True)
    (out / ".identity.json.99.tmp").write_text("{")
    assert score(data, tiny_model, out).complete
    assert not (out / ".identity.json.99.tmp").exists()

"""Every field of a manifest and of a run's files, dropped, retyped and blown up: the same meaning, or one sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import exports
import runs
from command import run as command
from gaincurate.core.prompts import training_rows
from gaincurate.core.scored_set import open_scores
from gaincurate.errors import GaincurateError, InputError, OutputError
from gaincurate.schedule.base import Pool, build
from gaincurate.schedule.first_model import recorded_model
from gaincurate.schedule.rollback import return_to, saved_place
from gaincurate.schedule.run import Run
from gaincurate.schedule.status import status
from gaincurate.schedule.strategies.dots import Dots
from gaincurate.schedule.tracking import TRACKERS, Tracking, Writer
from gaincurate.trainers.logs import TAKEN, take_logs, taken
from gaincurate.trainers.session import PLACE, place_beside
from gaincurate.trainers.snapshot import RECORD, changed, source

VALUES: list[Any] = [
    None, "x", "", -1, 2.5, 10**30, float("inf"), float("nan"), True, [], {}, [1], {"a": 1}, "../x", "\ud800", "a\0b",
    "a" * 5000, json.loads("[" * 70 + "]" * 70),
]  # fmt: skip


def variants(value: Any) -> Iterator[tuple[str, Any]]:
    """Each value at each place of a document, of lists at the first two."""
    yield from ((f"all = {new!r:.20}", new) for new in VALUES)
    for place in places(value):
        for new in [*VALUES, ...]:
            made = inner = copy.deepcopy(value)
            for step in place[:-1]:
                inner = inner[step]
            if new is ...:
                del inner[place[-1]]
            else:
                inner[place[-1]] = new
            yield f"{place} = {new!r:.20}", made


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if before:
        yield before
    for key in (
        value if isinstance(value, dict) else range(min(2, len(value))) if isinstance(value, list) else ()
    ):
        yield from places(value[key], (*before, key))


def refused(path: Path, use: Callable[[], object]) -> int:
    """How many variants of a file are refused in one line; any other exception fails the test."""
    text, count = path.read_bytes(), 0
    for what, value in variants(json.loads(text)):
        path.write_text(json.dumps(value))
        try:
            use()
        except GaincurateError as error:
            count += "\n" not in str(error)
        except Exception as error:
            pytest.fail(f"{path.name}, {what}: {error!r}")
    path.write_bytes(text)
    use()
    return count


def test_what_was_put_into_prompts_is_refused_or_read(tmp_path: Path) -> None:
    added = {"system": exports.SYSTEM, "shots": exports.SHOTS}
    folder = exports.make_set(tmp_path / "set", exports.sums(4), segmentation=added)

    def use() -> None:
        scored = open_scores(folder)
        training_rows(scored.to_table(), scored.identity, bare=False, with_scores=False)

    assert refused(folder / "manifest.json", use) > 250


def test_a_manifest_that_lost_a_shard_is_refused(tmp_path: Path) -> None:
    path = exports.make_set(tmp_path / "set", exports.sums(6)) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "shards": manifest["shards"][:1], "rows": 3}))
    with pytest.raises(OutputError, match="it says 3 rows and 0 rejected, of 6"):
        open_scores(path.parent)
    path.write_text(json.dumps({**manifest, "rejected": 3}))
    with pytest.raises(OutputError, match="it says 6 rows and 3 rejected, of 6"):
        open_scores(path.parent)


def test_a_manifest_is_refused_or_means_the_same(tmp_path: Path) -> None:
    folder = runs.some_set(tmp_path / "set", rows=6, shards=2)

    def use() -> None:
        scored = open_scores(folder)
        assert (len(scored), len(scored.to_table())) == (6, 6)

    assert refused(folder / "manifest.json", use) > 200


@pytest.mark.parametrize("name", ["run.json", "state.json", "rounds/00001/state.json"])
def test_a_runs_file_is_refused_or_read(name: str, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rows=12, budget=3, strategy="uniform")
    runs.report(run)
    assert command("schedule", "next", run.folder).exit_code == 0

    def use() -> None:
        again = Run(run.folder)
        status(again)
        assert again.prompts >= 0
        again.ids(0)
        again.rows(1)

    assert refused(run.folder / name, use) > 50


def test_the_place_beside_a_checkpoint_is_refused_or_gone_back_to(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rows=12, budget=3, strategy="uniform")
    path = tmp_path / PLACE
    path.write_text(json.dumps(saved_place(run, 0)))

    def use() -> None:
        return_to(run, place_beside(tmp_path), path.name)
        assert Run(run.folder).state["round"] == 0
        Run(run.folder).rows(0)

    assert refused(path, use) > 100


def test_what_a_held_checkpoint_says_is_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / RECORD
    files = {"config.json": [1, 2], "a\0b": [1, 2], "../x": [1, 2]}
    path.write_text(json.dumps({"checkpoint": "c", "step": 1, "files": files}))

    def use() -> None:
        assert isinstance(source(tmp_path), str)
        changed(tmp_path)

    assert refused(path, use) > 40


def test_a_trackers_place_is_refused_or_sent_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.begin(tmp_path, rows=12, budget=3, strategy="uniform")
    writer = Writer("a", lambda numbers, step: None, lambda: None)
    monkeypatch.setitem(TRACKERS, "mlflow", lambda run, identifier: writer)
    path = run.folder / "tracking.json"
    path.write_text(json.dumps({"tracker": "mlflow", "id": "a", "round": -1, "step": -1}))

    def use() -> None:
        with Tracking(run, "mlflow"):
            pass

    assert refused(path, use) > 40


def test_a_note_of_taken_logs_is_refused_or_read(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rows=12, budget=3, strategy="uniform")
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"gc_id": run.ids(0)[0], "reward": 1.0, "round": 0}) + "\n")
    take_logs(run, [log])
    path = run.round_folder(0) / TAKEN
    assert refused(path, lambda: taken(run, 0)) > 50
    note = json.loads(path.read_text())
    note["files"][0]["of_a_later_version"] = 1
    note["files"][0]["bytes"] = 2**62
    path.write_text(json.dumps(note))
    assert [file.rows for file in taken(run, 0)] == [1]
    assert not taken(run, 0)[0].begins(log)


def test_the_note_of_a_column_is_refused_or_means_the_same(tmp_path: Path) -> None:
    folder = runs.some_set(tmp_path / "set", rows=6, shards=2)
    scored = open_scores(folder)
    scored.add_column(
        "gc_x",
        scored.column("gc_id").to_pylist(),
        pa.array([0.5] * 6),
        {"made_by": "a test", "meaning": "half"},
    )

    def use() -> None:
        assert open_scores(folder).column("gc_x").to_pylist() == [0.5] * 6
        made = command(
            "derive", folder, "--signal", "gc_angle", "--length-free", "rank-in-bin", "--name", "gc_x"
        )
        assert isinstance(made.exception, SystemExit), made.exception
        if "made otherwise" not in made.stderr:
            raise OutputError(made.stderr.strip())

    assert refused(folder / "columns/gc_x.json", use) > 40


def test_a_damaged_line_of_a_log_stops_nothing(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rows=12, budget=3, strategy="uniform")
    runs.report(run)
    assert command("schedule", "next", run.folder).exit_code == 0
    run.log(what="training", round=0, seconds=2.5, ended_well=True)
    logs: dict[Path, Callable[[], object]] = {run.folder / "execution.jsonl": lambda: status(Run(run.folder))}
    score: dict[str, Any] = {
        "place": {"kind": "alias", "name": "demo"},
        "model": "demo",
        "asked": "x",
        "host": "h",
        "engine": "local",
    }
    score |= {"devices": ["cpu"], "ended": 2.0, "elapsed": 1.0, "scored": 6, "seconds": {"loading": 0.5}}
    log = tmp_path / "set/execution.jsonl"
    log.write_text(json.dumps(score) + "\n")
    logs[log] = lambda: recorded_model(tmp_path / "set")
    for path, use in logs.items():
        lines = path.read_bytes().splitlines()
        for place, line in enumerate(lines):
            for what, value in variants(json.loads(line)):
                path.write_bytes(
                    b"\n".join([*lines[:place], json.dumps(value).encode(), *lines[place + 1 :], b""])
                )
                try:
                    use()
                except Exception as error:
                    pytest.fail(f"{path.name}, {what}: {error!r}")
        path.write_bytes(b"\n".join([*lines, b""]))
    assert status(Run(run.folder))["training_seconds"] == 2.5
    assert recorded_model(tmp_path / "set") == "demo"


def test_a_manifest_names_files_of_its_folder_and_counts_that_are_its_shards(tmp_path: Path) -> None:
    folder = runs.some_set(tmp_path / "set", rows=6, shards=2)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    changes: list[tuple[Callable[[Any], object], str]] = [
        (lambda it: it.update(rows=7), "it says 7 rows, and its shards have 6"),
        (
            lambda it: it["shards"][0].update(file="../set/shard-00000.arrow"),
            "the name of a file in this folder",
        ),
        (lambda it: it["shards"][1].update(file="shard-00000.arrow"), "it lists shard-00000.arrow twice"),
        (lambda it: it["shards"][0].update(rows=-3), r"shards\[0\]\.rows is -3"),
    ]
    for change, sentence in changes:
        change(changed := copy.deepcopy(manifest))
        (folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(GaincurateError, match=sentence):
            open_scores(folder)


def test_more_references_than_rows_are_refused_where_a_run_says_so() -> None:
    selector = build("dots", Pool(12, 2, 0, (0.0, 1.0)), {})
    assert isinstance(selector, Dots)
    with pytest.raises(InputError, match="^references=256 are more than the 12 rows of the set.$"):
        selector.references(0)

"""What commit 1094882 wrote opens, and going on with it gives what that commit gave.

`fixtures/make_1094882.py` made the folders and, with the old code, the results that are compared here. Numbers of
a model may differ in their last digits from one processor to another, so they are compared to 1e-4. Everything
else is compared exactly.
"""

from __future__ import annotations

import json
import lzma
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import old_formats as old
import old_replay
from command import run as run_here
from gaincurate import Schedule, open_scores
from gaincurate.difficulty.rollout_set import outcome_lines, pass_rates

FIXTURES = Path(__file__).parent / "fixtures/1094882"
NEAR = 1e-4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folders of the fixture, in the working folder, on a processor that computes as theirs did."""
    # The kind of processor is part of a set's identity. Every x86 processor can be the plainest one.
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield old.unpack(FIXTURES / "folders.tar.xz", tmp_path)
    for name in {"old_strategy", "old_verifier"} & set(sys.modules) - modules:
        del sys.modules[name]


def gaincurate(*given: object, fails: bool = False) -> str:
    """The command line: in this process, or in one of its own where the processor's kind matters."""
    if given[0] == "score" or given[:2] == ("difficulty", "rollout"):
        command = [sys.executable, "-m", "gaincurate", *map(str, given)]
        done = subprocess.run(command, capture_output=True, text=True)
        code, output, error = done.returncode, done.stdout, done.stderr
    else:
        result = run_here(*given)
        code, output, error = result.exit_code, result.stdout, result.stderr
    assert code == (2 if fails else 0), error
    return output


def golden(name: str) -> Any:
    """What the old code gave."""
    with lzma.open(FIXTURES / f"{name}.json.xz", "rt") as file:
        return json.load(file)


def differences(new: Any, before: Any, place: str = "") -> list[str]:
    """Where two JSON values differ; what is new in an object is no difference."""
    if isinstance(new, dict) and isinstance(before, dict):
        gone = [f"{place}.{name} is gone" for name in before.keys() - new.keys()]
        both = [
            name for name in before if name in new and name not in ("easy", "hard")
        ]  # of other prompts now
        return gone + [line for n in both for line in differences(new[n], before[n], f"{place}.{n}")]
    if isinstance(new, list) and isinstance(before, list) and len(new) == len(before):
        pairs = enumerate(zip(new, before, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{place}[{i}]")]
    fractions = isinstance(new, float) and isinstance(before, float)
    if new == before or (fractions and math.isclose(new, before, rel_tol=NEAR, abs_tol=NEAR)):
        return []
    return [f"{place}: {new!r}, before {before!r}"]


def refused(folder: Path, command: list[str], name: str) -> bool:
    """Whether the libraries are others than those of the fixture, so that a resume must be refused by name."""
    from importlib.metadata import version

    identity = json.loads((folder / name / "identity.json").read_text())
    versions = identity["versions"] | identity.get("engine", {}).get("versions", {})
    others = {
        package for package, old_one in versions.items() if version(package).partition("+")[0] != old_one
    }
    if others:
        done = subprocess.run([sys.executable, "-m", "gaincurate", *command], capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "versions" in done.stderr
    return bool(others)


def rows_of(shard: Path) -> pa.Table:
    """A shard as Arrow itself reads it."""
    with pa.ipc.open_file(shard) as file:
        return file.read_all()


def test_a_scored_set_opens_with_every_column(folder: Path) -> None:
    scored = open_scores(folder / "scored")
    shards = sorted((folder / "scored").glob("shard-*.arrow"))
    table = pa.concat_tables([rows_of(shard) for shard in shards])
    assert len(shards) == 4
    assert len(scored) == len(table) == 47
    for name in table.column_names:
        assert scored.column(name).to_pylist() == table.column(name).to_pylist(), name
    assert {"gc_nll", "gc_entropy", "gc_last_entropy", "gc_embedding", "level"} <= set(table.column_names)
    free = rows_of(folder / "scored/columns/gc_angle_rank_in_bin.arrow")
    by_id = dict(zip(free.column("gc_id").to_pylist(), free.column("value").to_pylist(), strict=True))
    ids = scored.column("gc_id").to_pylist()
    assert scored.column("gc_angle_rank_in_bin").to_pylist() == [by_id[gc_id] for gc_id in ids]


REWORDED = {
    "white space, case or Unicode form": "white space, case, Unicode form or LaTeX spelling",
    "upper case and how Unicode composes characters; answers": (
        "upper case, how Unicode composes characters and how LaTeX is spelt; answers"
    ),
    "Intervals hold one at a time.": (
        "Intervals hold one at a time. There is none below 10 rows, nor where fewer than 5 differ from a column's "
        "commonest value: a resample could miss them all."
    ),
}
"""What hygiene says since it knows spellings of LaTeX, and the report since it has no interval of next to nothing."""
NO_INTERVAL = re.compile(
    r"\.report\.relations\[\d+\]\.groups\[1\]\.correlation\.(low|high): None, before -?0\.\d+"
)
"""Of a group of which all rows but a few have one pass rate."""


def test_commands_that_read_say_what_they_said(folder: Path) -> None:
    new = old.without_places(old.read_everything(folder, gaincurate), folder)
    # 0 tokens were reported where nobody had logged any.
    unknown = "completion_tokens: None, before 0"
    before = json.dumps(golden("read"))
    for then, now in REWORDED.items():
        assert then in before
        before = before.replace(then, now)
    found = [line for line in differences(new, json.loads(before)) if not NO_INTERVAL.fullmatch(line)]
    assert [line for line in found if not line.endswith(unknown)] == []


def test_a_finished_set_is_kept_to_the_byte(folder: Path) -> None:
    command = [*old.SCORE, "--out", "scored"]
    if refused(folder, command, "scored"):
        return
    files = [
        path for path in (folder / "scored").rglob("*") if path.is_file() and path.name != "execution.jsonl"
    ]
    before = {path: path.read_bytes() for path in files}
    gaincurate(*command)
    assert {path: path.read_bytes() for path in files} == before


def test_a_killed_scoring_goes_on(folder: Path) -> None:
    command = [*old.SCORE, "--out", "half"]
    if refused(folder, command, "half"):
        return
    kept = {path: path.read_bytes() for path in (folder / "half").glob("shard-*.arrow")}
    assert 0 < len(kept) < 4
    gaincurate(*command)
    assert {path: path.read_bytes() for path in kept} == kept
    for shard in sorted((folder / "scored").glob("shard-*.arrow")):
        new, whole = rows_of(folder / "half" / shard.name), rows_of(shard)
        assert new.schema.equals(whole.schema)
        for name in whole.column_names:
            assert differences(new.column(name).to_pylist(), whole.column(name).to_pylist(), name) == []
    for name in ("identity.json", "rejected.jsonl"):
        assert (folder / "half" / name).read_bytes() == (folder / "scored" / name).read_bytes()
    new, whole = (json.loads((folder / name / "manifest.json").read_text()) for name in ("half", "scored"))
    assert {**new, "shards": []} == {**whole, "shards": []}


def test_a_rollout_set_opens(folder: Path) -> None:
    shards = sorted((folder / "rollouts").glob("shard-*.arrow"))
    rows = pa.concat_tables([rows_of(shard) for shard in shards]).to_pylist()
    judged: dict[str, list[float]] = {row["gc_id"]: [] for row in rows}
    for row in rows:
        judged[row["gc_id"]] += [] if row["reward"] is None else [row["reward"]]
    rates = pass_rates(folder / "rollouts").to_pylist()
    assert {row["gc_id"]: (row["wins"], row["samples"]) for row in rates} == {
        gc_id: (sum(rewards), len(rewards)) for gc_id, rewards in judged.items()
    }
    lines = list(outcome_lines(folder / "rollouts", round_=3))
    told = [(line["gc_id"], line["sample"], line["reward"], line["round"]) for line in lines]
    assert told == [(row["gc_id"], row["sample"], row["reward"], 3) for row in rows]


def test_predictions_from_a_rollout_set_and_an_adapter_are_what_they_were(folder: Path) -> None:
    before = golden("predicted")
    del before["variance"]  # by attention on embeddings as they are, a method that is no longer there
    assert differences(old.predict(folder, gaincurate), before) == []


def test_killed_rollouts_go_on(folder: Path) -> None:
    command = [*old.ROLLOUT, "--out", "rollouts-half"]
    if refused(folder, command, "rollouts-half"):
        return
    gaincurate(*command)
    for shard in sorted((folder / "rollouts").glob("shard-*.arrow")):
        new, whole = (
            rows_of(folder / name / shard.name).to_pylist() for name in ("rollouts-half", "rollouts")
        )
        assert differences(new, whole) == []


@pytest.mark.parametrize("name", old.RUNS)
def test_a_run_in_mid_round_goes_on_with_the_same_plans(folder: Path, name: str) -> None:
    new = old.without_places(old.continue_run(folder, name, gaincurate), folder)
    assert differences(new, golden(f"run-{name}")) == []


def test_a_run_goes_on_in_python(folder: Path) -> None:
    run = Schedule(folder / "runs/variance")
    wanted = golden("run-variance")["plans"]
    while True:
        assert (
            run.plan["ids"] == run.ids == run.data().column("gc_id").to_pylist() == wanted[run.round]["ids"]
        )
        old.report_outcomes(run.folder)
        if not run.next():
            break
    assert run.finished
    assert run.round == len(wanted) - 1


@pytest.mark.parametrize("name", [name for name in old.RUNS if "dots" not in name])
def test_a_new_run_begins_with_the_same_round(folder: Path, name: str) -> None:
    gaincurate("schedule", "start", "scored", "--run", "runs/new", *old.start_options(name))
    (new,) = old.plans(folder / "runs/new")
    assert differences(old.without_places(new, folder), golden(f"run-{name}")["plans"][0]) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_a_killed_training_that_replays_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    made = old.unpack(FIXTURES / "replay.tar.xz", tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = "import json, sys; from pathlib import Path; import old_replay\n"
    program += "Path(sys.argv[2]).write_text(json.dumps(old_replay.go_on(Path(sys.argv[1]))))"
    command = [sys.executable, "-c", program, str(made), str(tmp_path / "result.json")]
    folder = Path(old_replay.__file__).parent
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert differences(json.loads((tmp_path / "result.json").read_text()), golden("replay")) == []


def test_the_comparison_sees_what_differs() -> None:
    before = {"a": [1, 0.5], "b": "x", "c": None, "d": True}
    assert differences({**before, "e": 1, "a": [1, 0.5 + NEAR / 4]}, before) == []
    for changed in ({"a": [1, 0.502]}, {"a": [2, 0.5]}, {"a": [1]}, {"b": "y"}, {"c": 0}, {"d": False}):
        assert len(differences({**before, **changed}, before)) == 1
    assert differences({"a": [1, 0.5], "b": "x", "d": True}, before) == [".c is gone"]

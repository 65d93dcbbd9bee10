"""Folders that an older version wrote, and how a user goes on with each of them.

The program that made the fixtures and the test that opens them share these functions. Both give them the command
line of their own version, so the stored results are what the older code did from the same folder on.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Command = Callable[..., str]
"""Runs `gaincurate ARGUMENTS` in the working folder and gives its standard output; `fails=True` expects exit 2."""

HERE, PYTHON = "@HERE@", "@PYTHON@"
"""What stands in the fixtures for the folder they lie in, and for the Python that runs a trainer."""
_HASHED = {"manifest.json", "identity.json"}  # other files name their hashes, so their bytes must not change

SCORE = shlex.split(
    "score rows.jsonl --model model --system Think. --signals angle,nll,entropy,embedding --threads 1 --device cpu "
    "--shard-rows 12 --on-error skip --answer-column answer --max-length 200"
)
ROLLOUT = shlex.split(
    "difficulty rollout scored --model model --verifier old_verifier:parity --samples 3 --max-tokens 4 --threads 1 "
    "--device cpu --on-error skip --verify-workers 1 --shard-prompts 12 --batch-tokens 512"
)
RUNS = (
    "uniform", "file-order", "length", "gain-rl", "variance", "own", "window", "dots", "dots-rollout", "driven",
)  # fmt: skip


def texts(folder: Path) -> list[Path]:
    """The files that may name the folder they lie in."""
    files = [path for path in folder.rglob("*.json*") if path.is_file() and path.name not in _HASHED]
    return [path for path in files if "model" not in path.parent.name]


def unpack(archive: Path, folder: Path) -> Path:
    """A fixture in a folder of its own, as if it had been made there."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    for path in texts(folder):
        text = path.read_text()
        if HERE in text or PYTHON in text:
            path.write_text(text.replace(HERE, str(folder)).replace(PYTHON, sys.executable))
    return folder


def without_places(value: Any, folder: Path) -> Any:
    """The value as JSON without paths, times and versions."""
    text = json.dumps(value).replace(str(folder.resolve()), HERE).replace(str(folder), HERE)
    return _without_times(json.loads(text.replace(sys.executable, PYTHON)))


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = re.compile(r".*(seconds|elapsed|time)|versions?|gaincurate|bytes|hash|digest")
        return {name: _without_times(each) for name, each in value.items() if not left_out.fullmatch(name)}
    if isinstance(value, list):
        return [_without_times(each) for each in value]
    return value


# What training rounds came to: the same for the same prompt, round and sample, whatever the code.


def outcome_lines(ids: list[str], round_: int, samples: int = 3) -> list[Json]:
    """Some prompts are easy and some hard; all get easier."""
    lines = []
    for gc_id in ids:
        for sample in range(samples):
            luck = zlib.crc32(f"{gc_id} {round_} {sample}".encode()) % 100
            ease = zlib.crc32(gc_id.encode()) % 100 + 8 * round_
            lines.append({"gc_id": gc_id, "reward": int(luck < ease), "round": round_, "sample": sample})
    return lines


def write_lines(path: Path, lines: list[Json]) -> None:
    """One object per line, over what was there."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def report_outcomes(run: Path, *, half: bool = False) -> None:
    """Write the newest round's outcomes, or as many as a trainer in mid-round has written."""
    folder = max((run / "rounds").iterdir())
    lines = outcome_lines(json.loads((folder / "plan.json").read_text())["ids"], int(folder.name))
    write_lines(folder / "outcomes.jsonl", lines[: len(lines) // 2] if half else lines)


def answer_references(run: Path) -> None:
    """Write what the references of the round that waits for them did."""
    folder = max((run / "difficulty").iterdir())
    ids = json.loads((folder / "references.json").read_text())["ids"]
    write_lines(folder / "references.jsonl", outcome_lines(ids, int(folder.name)))


def start_options(name: str) -> list[str]:
    """The options of `schedule start` for a run by the name of its fixture."""
    options = {
        "gain-rl": "--sigma 0.2N --align-to 2 --with-scores",
        "length": "--sigma 5 --order rank --bare",
        "variance": "--set power=40 --set memory=1 --set unseen=0.2 --min-coverage 0.5",
        "own": "--strategy old_strategy:Shortest --set first=3",
        "window": "--strategy gain-rl --sigma 0.1N --rescore window --probe 12 --drift 1 --scoring=--threads=1",
        "dots": "--strategy dots --references 9 --group-column level",
        "dots-rollout": "--strategy dots --references 8 --target variance --reuse-references 0.2",
        "driven": "--strategy uniform",
    }.get(name, "")
    options = options if "--strategy" in options else f"--strategy {name} {options}"
    rounds = 3 if name in ("window", "dots-rollout") else 4
    found = [*options.split(), "--budget", "6", "--rounds", str(rounds), "--seed", "5"]
    if name == "dots-rollout":
        rollout = {"verifier": "old_verifier:parity", "samples": 2, "max_tokens": 4, "on_error": "skip"}
        rollout |= {"threads": 1, "verify_workers": 1, "device": "cpu"}
        found += ["--rollout", json.dumps(rollout)]
    return found


def next_round(folder: Path, name: str, gaincurate: Command) -> bool:
    """Train the newest round of a run, in a manner of speaking, and plan the next; False after the last."""
    run = folder / "runs" / name
    newest = len(list(run.glob("rounds/*/plan.json"))) - 1
    given = ["schedule", "next", f"runs/{name}", "--json"]
    if newest >= 0:
        report_outcomes(run)
    if name in ("window", "dots-rollout") and newest >= 0:
        given += ["--checkpoint", "model" if newest % 2 else "checkpoint"]
    rounds = json.loads((run / "run.json").read_text())["config"]["rounds"]
    if name == "dots" and newest + 1 < rounds:
        gaincurate(*given, fails=True)
        answer_references(run)
    return not json.loads(gaincurate(*given))["finished"]


def plans(run: Path) -> list[Json]:
    """A run's plans, in order."""
    return [json.loads(path.read_text()) for path in sorted(run.glob("rounds/*/plan.json"))]


# How a user goes on; each gives what came of it.


def continue_run(folder: Path, name: str, gaincurate: Command) -> Json:
    """Go on with a run to its end."""
    run = folder / "runs" / name
    before = json.loads(gaincurate("schedule", "status", f"runs/{name}", "--json"))
    if name == "driven":
        gaincurate("schedule", "run", f"runs/{name}")
    else:
        while next_round(folder, name, gaincurate):
            pass
    after = json.loads(gaincurate("schedule", "status", f"runs/{name}", "--json"))
    return {"before": before, "plans": plans(run), "after": after}


def read_everything(folder: Path, gaincurate: Command) -> Json:
    """What the commands that only read say of a scored set and a rollout set."""
    found: Json = {"show": json.loads(gaincurate("show", "scored", "--json"))}
    checks = ["--max-prompt-tokens", "60", "--verifier", "exact"]
    found["hygiene"] = json.loads(gaincurate("hygiene", "scored", *checks, "--json"))
    rates = ["--rollouts", "rollouts", "--run", "runs/variance", "--group-column", "level"]
    found["report"] = json.loads(gaincurate("report", "scored", *rates, "--json"))
    for trainer in ("trl", "verl", "openrlhf"):
        given = ["--trainer", trainer, "--by", "gc_nll", "--limit", "5"]
        given += ["--data-source", "sums"] if trainer == "verl" else []
        gaincurate("export", "scored", *given, "--out", f"{trainer}.jsonl", "--with-scores")
        found[trainer] = [json.loads(line) for line in (folder / f"{trainer}.jsonl").read_text().splitlines()]
    return found


def predict(folder: Path, gaincurate: Command) -> Json:
    """Predictions from a rollout set, without training and by an adapter; a column free of length."""
    import pyarrow as pa

    found: Json = {}
    methods = {
        "whitened": ["--method", "whitened"],
        "group": ["--method", "group-mean", "--group-column", "level"],
        "adapter": ["--adapter", "adapter"],
    }
    for name, given in methods.items():
        options = ["--outcomes", "rollouts", "--references", "12", "-o", f"out-{name}"]
        gaincurate("difficulty", "predict", "scored", *options, *given)
        (path,) = (folder / f"out-{name}").rglob("*.arrow")
        with pa.ipc.open_file(path) as file:
            found[name] = {row["gc_id"]: row["value"] for row in file.read_all().to_pylist()}
    return found

"""Golden corpus: what the commands made of fixed inputs at commit 8b3f63b, and a comparison with what they make now.

    python tests/golden.py                 compare with the stored corpus; exit with 1 and list what differs
    python tests/golden.py --exact FILE    also store the hashes of all bytes in FILE, or compare with those in it
    python tests/golden.py --write         make the corpus again from the sets and models in the archive

The archive holds two models, the sets that each scored, a rollout set and outcomes, all written by that commit. Plans,
exports and reports come from these sets, so they are the same on every machine. Scores depend on the processor and are
compared with the stored ones to four digits. `--exact` compares bytes, on the machine that wrote FILE alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import math
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chat_server import ChatServer
from command import run as run_here

FIXTURE = Path(__file__).with_name("fixtures") / "8b3f63b"
NEAR = 1e-4
INTENDED = "rollouts.identity.verifier.rule:"
"""The rule of the verifier `exact` counts its versions, and the archive has the first."""
SCORE = "--signals angle,nll,entropy,embedding --threads 1 --device cpu --shard-rows 8 --on-error skip"
SCORE += " --answer-column answer"
ROWS = {"text": "", "chat": "", "shots": "--system Think. --system-override --shots shots.json"}
MODELS = ("llama", "qwen3")
JUDGED = ("verl", "skyrl", "openrlhf", "roll", "open-instruct")
"""Trainers whose rows name the reward function."""
TRAINERS = (*JUDGED, "trl", "nemo-rl", "slime", "prime-rl", "trinity", "areal")
EXPORTS = {
    "sets/llama-text": "--where gc_nll<99",
    "sets/llama-shots": "--by gc_nll --limit 9",
    "sets/qwen3-chat": "--by gc_angle --ascending --with-scores --where level>0",
    "runs/gain-rl": "--round 3",
}
RUNS = {
    "length": "--strategy length --sigma 5 --set order=rank --set bare=true",
    "gain-rl": "--strategy gain-rl --sigma 0.2N --align-to 2 --set with_scores=true",
    "descending": "--strategy gain-rl --by gc_nll --descending --sigma 6 --set step_low=0 --set step_high=9",
    "window": "--strategy gain-rl --sigma 0.1N --rescore window --rescore-every 3 --probe 12 --drift 1 "
    "--scoring=--threads=1",
    "posterior-set": "--strategy posterior --set retest=0.3 --set memory=1 --labels level --min-coverage 0.5",
    "dots": "--strategy dots --references 9",
    "dots-group": "--strategy dots --references 9 --set group_column=level",
    "dots-variance": "--strategy dots --references 8 --set target=variance --set reuse_references=0.2",
    "stratify": "--strategy gain-rl --sigma 0.2N --stratify level",
    "clusters": "--strategy uniform --stratify embedding --set clusters=3",
    "where": "--strategy uniform --where level<3",
    "driven": "--strategy gain-rl --sigma 0.2N",
}
for _name in ("uniform", "file-order", "falling", "posterior"):
    RUNS[_name] = f"--strategy {_name}"
for _name in ("variance", "mopps", "mapp"):
    RUNS[f"posterior-{_name}"] = f"--strategy posterior --preset {_name}"
TRAINER = """import json, sys
import pyarrow.parquet as pq
import golden
ids = pq.read_table(sys.argv[1], columns=["gc_id"]).column("gc_id").to_pylist()
golden.write_lines(sys.argv[3], golden.outcome_lines(ids, int(sys.argv[2])))
"""
LEFT_OUT = re.compile(
    r".*(seconds|elapsed|time)|versions?|gaincurate|bytes|hash|digest|weights|cpu|log|command"  # machine and hour
    r"|hints|notes?|meaning|made|made_by|headline|methods|sentence|read"  # prose
)
"""Keys of JSON whose values are not compared."""
GONE = re.compile(
    r"\.reports\.(report|show) .*\.(matrix|profiles|calibrations|against|ends|tenths|distributions|scatters|format"
    r"|group_sizes|settings|(prompt|length)_column|groups|counts|match|with|histogram|ceiling)"
)
"""Places in reports and in `show` that left, or hold other figures now."""
AGAINST, PREDICTED = " --against sets/qwen3-text", "predicted p(1-p)"  # an option and a column that left


def gaincurate(command: str, *exits: int) -> Any:
    """Run a command in this process; gives its standard output as JSON where it is that, and None where it failed."""
    result = run_here(*command.split())
    assert result.exit_code in (exits or (0,)), (command, result.stdout, result.stderr)
    if result.exit_code:
        return None
    return plain(json.loads(result.stdout)) if "--json" in command else result.stdout


def killed(command: str, started: Callable[[], bool]) -> None:
    """Run a command in a process and kill it as soon as it has something to go on with."""
    words, quiet = [sys.executable, "-m", "gaincurate", *command.split()], subprocess.DEVNULL
    with subprocess.Popen(words, stdout=quiet, stderr=quiet) as process:
        while process.poll() is None and not started():
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the command ended before it was killed"


def outcome_lines(ids: list[str], round_: int) -> list[dict[str, Any]]:
    """Three rollouts of each prompt: some prompts are easy and some hard, and all get easier."""
    lines = []
    for gc_id, sample in ((gc_id, sample) for gc_id in ids for sample in range(3)):
        luck = zlib.crc32(f"{gc_id} {round_} {sample}".encode()) % 100
        reward = int(luck < zlib.crc32(gc_id.encode()) % 100 + 8 * round_)
        lines.append({"gc_id": gc_id, "reward": reward, "round": round_, "sample": sample})
    return lines


def write_lines(path: Path | str, lines: list[dict[str, Any]]) -> None:
    """One object per line."""
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))


def answer(asked: Path, round_: int) -> None:
    """Write the outcomes of the ids in a JSON file beside it."""
    name = "outcomes.jsonl" if asked.name == "plan.json" else "references.jsonl"
    write_lines(asked.with_name(name), outcome_lines(json.loads(asked.read_text())["ids"], round_))


def plain(value: Any) -> Any:
    """The value without what depends on the machine."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items() if not LEFT_OUT.fullmatch(name)}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.replace(str(Path.cwd()), "@HERE@") if isinstance(value, str) else value


def differences(new: Any, before: Any, place: str = "") -> Iterator[str]:
    """Where two JSON values differ; a new key of an object is no difference."""
    if isinstance(new, dict) and isinstance(before, dict):
        for name, value in before.items():
            if GONE.fullmatch(f"{place}.{name}"):
                continue
            gone = [f"{place}.{name} is gone"] if value not in (None, {}) else []
            yield from differences(new[name], value, f"{place}.{name}") if name in new else gone
    elif (
        isinstance(before, list)
        and before
        and isinstance(before[0], dict)
        and before[0].get("column") == PREDICTED
    ):
        yield from differences(new, before[1:], place)
    elif isinstance(new, list) and isinstance(before, list) and len(new) == len(before):
        for i, (a, b) in enumerate(zip(new, before, strict=True)):
            yield from differences(a, b, f"{place}[{i}]")
    elif isinstance(new, float) and isinstance(before, float):
        near = 2.0**-10 if "gc_embedding" in place else NEAR  # stored as float16, rounded to either side
        if not math.isclose(new, before, rel_tol=near, abs_tol=NEAR):
            yield f"{place}: {new}, before {before}"
    elif new != before:
        yield f"{place}: {str(new)[:200]!r}, before {str(before)[:200]!r}"


def rows_of(path: Path) -> Any:
    """The rows of a file as Arrow reads it."""
    if path.suffix == ".jsonl":
        return plain([json.loads(line) for line in path.read_text().splitlines()])
    if path.suffix == ".parquet":
        return plain(pq.read_table(path).to_pylist())
    with pa.ipc.open_file(path) as file:
        return plain(file.read_all().to_pylist())


def contents(folder: Path) -> dict[str, Any]:
    """A scored set or a rollout set: its rows, what was rejected, and its identity."""
    found = {path.name: rows_of(path) for path in (*folder.glob("*.arrow"), *folder.glob("rejected.jsonl"))}
    return {**found, "identity": plain(json.loads((folder / "identity.json").read_text()))}


def score_all(out: str) -> None:
    """Score every kind of rows with every model."""
    for kind, options in ROWS.items():
        for model in MODELS:
            given = f"{kind}.jsonl --model models/{model} {SCORE} {options} --out {out}/{model}-{kind}"
            gaincurate(f"score {given}")


def roll_out(out: str, *, stop: bool = False) -> None:
    """A rollout set by a server that answers by a rule; killed in the middle and resumed, if it is to stop."""
    with ChatServer() as server:
        command = f"difficulty rollout sets/llama-text --out {out} --server {server.url} --samples 4 --verifier exact"
        command += " --verify-workers 1 --shard-prompts 12 --on-error skip --concurrency 2"
        if stop:
            killed(command, lambda: len(server.given) > 60)
        gaincurate(command)


def plans(name: str) -> dict[str, Any]:
    """Six rounds of a run with scripted outcomes; `driven` is trained by a driver that is killed and goes on."""
    run = Path("runs", name)
    gaincurate(f"schedule start sets/llama-text --run {run} --budget 6 --rounds 6 --seed 5 {RUNS[name]}")
    if name == "driven":
        trainer = f"{sys.executable} trainer.py {{data}} {{round}} {{outcomes}}"
        killed(f"schedule run {run} -- {trainer}", lambda: (run / "rounds/00002/plan.json").exists())
        gaincurate(f"schedule run {run}")
    for k in range(0 if name == "driven" else 6):
        plan, asked = (
            run / place / f"{k:05d}" / file
            for place, file in (("rounds", "plan.json"), ("difficulty", "references.json"))
        )
        if asked.exists():
            answer(asked, k)
            gaincurate(f"schedule next {run}")
        answer(plan, k)
        checkpoint = f"--checkpoint models/{MODELS[k % 2]}" if name == "window" else ""
        gaincurate(f"schedule next {run} {checkpoint}", 2 if "dots" in name and k < 5 else 0)
    found = {path.parent.name: plain(json.loads(path.read_text())) for path in run.glob("rounds/*/plan.json")}
    assert len(found) == 6, found
    status = gaincurate(f"schedule status {run} --json")
    return {**found, "rows": rows_of(run / "rounds/00005/data.parquet"), "status": status}


def exports(trainer: str) -> dict[str, Any]:
    """Sets in several orders and a round of a run, in both kinds of files; None where the trainer cannot read them."""
    given = "--data-source sums" if trainer in JUDGED else ""
    given += " --env-class gsm8k" if trainer == "skyrl" else ""
    found = {}
    for source, options in EXPORTS.items():
        for kind in ("jsonl", "parquet")[: 1 if trainer == "roll" else 2]:
            out = Path("exports", trainer, source.replace("/", "-"), kind, f"data.{kind}")
            out.parent.mkdir(parents=True)
            said = gaincurate(
                f"export {source} --trainer {trainer} --out {out} {options} {given} --json", 0, 2
            )
            found[str(out)] = said and [said, rows_of(out)]
    return found


def reports() -> dict[str, Any]:
    """What the commands give that only read."""
    rates = f"--rollouts rollouts --rollouts outcomes.jsonl --run runs/posterior{AGAINST}"
    commands = [f"report sets/llama-text {rates} --group-column level"]
    commands += [f"show {name}" for name in ("sets/llama-text", "sets/qwen3-chat", "rollouts")]
    commands += ["hygiene sets/llama-text --max-prompt-tokens 60 --verifier exact"]
    found = {command: gaincurate(f"{command.replace(AGAINST, '')} --json") for command in commands}
    for method in ("gp --target variance", "group-mean --group-column level"):
        out = Path(f"predicted-{method.split()[0]}")
        given = f"--outcomes rollouts --references 12 --method {method} --out {out}"
        gaincurate(f"difficulty predict sets/llama-text {given}")
        found[method] = [rows_of(path) for path in out.rglob("*.arrow")]
    return found


def corpus() -> dict[str, Any]:
    """All values that are compared with stored ones, made in the working folder."""
    Path("trainer.py").write_text(TRAINER)
    made = {"plans": {name: plans(name) for name in RUNS}}
    return {**made, "exports": {name: exports(name) for name in TRAINERS}, "reports": reports()}


def compare() -> Iterator[str]:
    """Every difference from the stored corpus, and of what was killed and resumed from what was not."""
    with lzma.open(FIXTURE / "values.json.xz", "rt") as file:
        yield from differences(corpus(), json.load(file))
    score_all("new")
    roll_out("new/rollouts")
    for path in sorted(Path("new").iterdir()):
        stored = Path("rollouts") if path.name == "rollouts" else Path("sets", path.name)
        for difference in differences(contents(path), contents(stored), path.name):
            if not difference.startswith(INTENDED):
                yield difference
    command = f"score text.jsonl --model models/llama {SCORE} --out resumed/llama-text"
    killed(command, lambda: Path("resumed/llama-text/shard-00001.arrow").exists())
    gaincurate(command)
    roll_out("resumed/rollouts", stop=True)
    for path in sorted(Path("resumed").rglob("shard-*.arrow")):
        if Path("new", *path.parts[1:]).read_bytes() != path.read_bytes():
            yield f"{path} has other bytes after a kill"


def hashes() -> dict[str, str]:
    """Of all files that do not depend on the place and the hour."""
    kinds = ("shard-*.arrow", "new/*-*/identity.json", "rejected.jsonl", "plan.json", "data.*", "order.arrow")
    paths = (
        path for kind in kinds for path in Path().rglob(kind) if path.parts[0] in ("new", "runs", "exports")
    )
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def unpack() -> None:
    """The archive's folders in the working folder."""
    with tarfile.open(FIXTURE / "folders.tar.xz") as file:
        file.extractall(filter="data")


def write() -> None:
    """Make the values."""
    unpack()
    with lzma.open(FIXTURE / "values.json.xz", "wt") as file:
        json.dump(corpus(), file, separators=(",", ":"), sort_keys=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--exact", type=lambda path: Path(path).resolve())
    given, place = parser.parse_args(), str(Path(__file__).parent)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    os.environ["PYTHONPATH"] = f"{place}/..:{place}/../kernels:{place}"
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(Path(folder).resolve())
        if given.write:
            write()
        else:
            unpack()
            found += compare()
        if given.exact and given.exact.exists():
            before, now = json.loads(given.exact.read_text()), hashes()
            found += [f"{name}: other bytes" for name, value in before.items() if now.get(name) != value]
        elif given.exact:
            given.exact.write_text(json.dumps(hashes(), indent=1) + "\n")
    print(*found, sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

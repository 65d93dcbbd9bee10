"""Coverage-guided fuzzing of the borders, one at a time: input that reaches new lines of ours is kept and changed further.

Usage: python -m soak.fuzz BORDER [--minutes M] [--out FOLDER], with atheris. The good files are those that `python -m
soak` makes. An input begins with a byte that says which file of the border it stands for. What is no error of ours
ends the run, and the input is FOLDER/fuzz/BORDER/crash-*: `--only FILE` tries it again. It calls readers and no
commands, a thousand times a second, and so sees more input and less of what a user sees than the campaign.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Use = Callable[[Path, Path], object]
"""Reads a folder of good files, of which one, the second argument, has an input's bytes."""
DATA = [f"data.{kind}" for kind in ("jsonl", "json", "csv", "parquet", "arrow", "jsonl.gz", "csv.gz")]
SET = [
    "manifest.json",
    "identity.json",
    "execution.jsonl",
    "columns/gc_x.json",
    *(f"shard-0000{k}.arrow" for k in range(2)),
]
RUN = ["run.json", "execution.jsonl", "order.arrow"]
DEFAULTS = sorted(Path(__file__).parents[1].glob("trainers/defaults/*.json"))
"""What each trainer's settings are when nothing is said."""
REFERRED = ["run.json", "difficulty/00001/references.json"]
FILES = {
    "data": DATA,
    "set": [f"set/{name}" for name in SET],
    "rollouts": [f"rollouts/{name}" for name in SET if "gc_x" not in name],
    "run": [*(f"run/{name}" for name in RUN), *(f"referred/{name}" for name in REFERRED)],
    "outcomes": ["run/rounds/00001/outcomes.jsonl"],
    "ledger": ["ledger/segment-00000000.arrows"],
    "server": ["answer.json"],
    "doctor": ["verl.yaml", "trainer.sh", "options.toml", *(f"doctor-{path.name}" for path in DEFAULTS)],
}  # fmt: skip
ANSWER = {
    "choices": [
        {
            "message": {"content": "4"},
            "finish_reason": "stop",
            "token_ids": [5, 6],
            "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -0.25}]},
        }
    ],
    "usage": {"completion_tokens": 2, "prompt_tokens": 9},
}


def uses() -> dict[str, Use]:
    """What reads each border. Imported here, to be watched."""
    from gaincurate.core.outcomes import Rules, read_any_round
    from gaincurate.core.scored_set import ScoredSet
    from gaincurate.difficulty import server_engine
    from gaincurate.difficulty.pass_rates import read_pass_rates
    from gaincurate.errors import GaincurateError
    from gaincurate.replay.ledger import read
    from gaincurate.schedule.run import Run
    from gaincurate.schedule.status import status
    from gaincurate.scoring.readers.source import open_source
    from gaincurate.trainers.doctor.examine import facts_of, judge, trainer_named
    from gaincurate.trainers.doctor.read import read_settings
    from gaincurate.trainers.profile import with_rules

    def data(folder: Path, file: Path) -> None:
        for _ in open_source(str(file)).batches():
            pass

    def scored(folder: Path, file: Path) -> None:
        found = ScoredSet(folder / "set")
        for table in found.tables():
            table.to_pylist()
        found.computed_columns()

    def run(folder: Path, file: Path) -> None:
        opened = Run(folder / file.relative_to(folder).parts[0])
        round_ = opened.newest()
        for read_it in (opened.plan, opened.ids, opened.rows):
            read_it(round_)
        status(opened)

    def server(folder: Path, file: Path) -> None:
        engine: Any = SimpleNamespace(_clean=server_engine.clean)
        request: Any = SimpleNamespace(gc_id="a", sample=0)
        form = server_engine.ChatCompletion
        body = server_engine.ServerEngine._json(engine, file.read_bytes(), form, "completion")
        server_engine._read(request, body, 16)

    context = cache(lambda folder: facts_of(folder / "run", "segment"))

    def doctor(folder: Path, file: Path) -> None:
        own = file.stem.removeprefix("doctor-")
        for name in [own] if own in with_rules() else with_rules():
            with suppress(GaincurateError):  # one trainer's refusal is not another's
                trainer = trainer_named(name)
                read = read_settings([str(file)], trainer.launches, trainer.whole is not None)
                judge(trainer, read, context(folder))

    return {
        "data": data,
        "set": scored,
        "rollouts": lambda folder, file: read_pass_rates(folder / "rollouts"),
        "run": run,
        "outcomes": lambda folder, file: read_any_round(file, Rules()),
        "ledger": lambda folder, file: list(read(folder / "ledger")),
        "server": server,
        "doctor": doctor,
    }


def rehash(file: Path) -> None:
    """Let a manifest have its part's new hash and size, as an author could."""
    from gaincurate.core.files import digest_file

    manifest = file.with_name("manifest.json")
    if file.suffix != ".arrow" or not manifest.exists():
        return
    told = json.loads(manifest.read_text())
    for entry in told["shards"]:
        if entry["file"] == file.name:
            entry |= {"hash": digest_file(file), "bytes": file.stat().st_size}
    manifest.write_text(json.dumps(told))


def main(border: str, out: Path, minutes: float, only: Path | None) -> None:
    """Fuzz until the time is over or something falls short."""
    atheris: Any = importlib.import_module("atheris")
    if not (out / "made").exists():
        raise SystemExit(f"the good files are not there: begin `python -m soak --out {out}` first")
    good = out / "work" / f"fuzz-{border}"
    shutil.rmtree(good, ignore_errors=True)  # the fuzzer ends without a word to Python
    shutil.copytree(out / "world", good / "box")
    box = good / "box"
    (box / "answer.json").write_text(json.dumps(ANSWER))
    for path in DEFAULTS:
        (box / f"doctor-{path.name}").write_text(json.dumps(json.loads(path.read_text())["defaults"]))
    os.environ["HOME"] = str(good)
    os.chdir(box)  # what a file names lies here or nowhere
    with atheris.instrument_imports(include=["gaincurate"]):
        use = uses()[border]
        from gaincurate.difficulty.server_engine import _RetryableError
        from gaincurate.errors import GaincurateError
    from soak import mutate  # imports of ours are watched from their first on

    files = [box / name for name in FILES[border]]
    contents = [file.read_bytes() for file in files]

    def one(data: bytes) -> None:
        place = data[0] % len(files) if data else 0
        manifest = files[place].with_name("manifest.json")
        kept = manifest.read_bytes() if manifest.exists() else None
        files[place].write_bytes(data[1:])
        rehash(files[place])
        try:
            use(box, files[place])
        except (GaincurateError, _RetryableError):
            pass
        finally:
            files[place].write_bytes(contents[place])
            if kept is not None and manifest != files[place]:
                manifest.write_bytes(kept)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        """Fields of what is JSON, half of the time, and bytes of anything."""
        chance, place = random.Random(seed), data[0] % len(files) if data else 0
        if files[place].suffix in (".json", ".jsonl") and chance.random() < 0.5:
            with suppress(ValueError, RecursionError, AttributeError):
                text = mutate.refielded(data[1:].decode(), chance, lines=files[place].suffix == ".jsonl")
                return (data[:1] + text.encode())[:most]
        made: bytes = atheris.Mutate(data, most)
        return made

    if only is not None:
        one(only.read_bytes())
        return
    corpus = out / "fuzz" / border
    corpus.mkdir(parents=True, exist_ok=True)
    for place, content in enumerate(contents):
        (corpus / f"good-{place}").write_bytes(bytes([place]) + content)
    limits = ["-timeout=60", "-rss_limit_mb=3000", "-max_len=20000", f"-max_total_time={round(60 * minutes)}"]
    atheris.Setup(
        [sys.argv[0], str(corpus), *limits, f"-artifact_prefix={corpus}/"], one, custom_mutator=changed
    )
    atheris.Fuzz()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="soak.fuzz", description=__doc__)
    parser.add_argument("border", choices=FILES)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    parser.add_argument("--only", type=Path, help="an input that is tried once, without a fuzzer's limits")
    given = parser.parse_args()
    main(given.border, given.out.resolve(), given.minutes, given.only and given.only.resolve())

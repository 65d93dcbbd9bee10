"""Runs of DOTS over sets made by hand: groups whose failure rates are known, commands in this process."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedded
import runs
from command import run as gaincurate
from gaincurate.errors import OutcomeError, TrainerError
from gaincurate.schedule import rescore
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run

ROWS, SAMPLES = 60, 4
OPTIONS: dict[str, Any] = {"references": 15, "group_column": "question"}


def begin(folder: Path, *, rounds: int = 3, budget: int = 8, rows: int = ROWS, **options: Any) -> Run:
    """A run over a set of five groups, predicted by their means unless told otherwise."""
    scored = folder / "set"
    if not scored.exists():
        embeddings = np.random.default_rng(0).normal(size=(rows, 8)) + 3 * np.eye(8)[np.arange(rows) % 5]
        embedded.make_set(scored, embeddings)
    given = {**OPTIONS, **options}
    return runs.begin(folder, strategy="dots", budget=budget, rounds=rounds, options=given)


def reward(gc_id: str, round_: int, sample: int) -> int:
    """Harder from group to group, easier from round to round."""
    chance = 220 - 40 * (int(gc_id[2:]) % 5) + 10 * round_
    return int(zlib.crc32(f"{gc_id} {round_} {sample}".encode()) % 256 < chance)


def lines(ids: Sequence[str], round_: int, **more: Any) -> list[dict[str, Any]]:
    """Outcome lines of these prompts."""
    return [
        {"gc_id": i, "reward": reward(i, round_, sample), "sample": sample, **more}
        for i in ids
        for sample in range(SAMPLES)
    ]


def asked_of(run: Run, round_: int) -> list[str]:
    """The references that a round asked for."""
    found: list[str] = json.loads((run.references_folder(round_) / "references.json").read_text())["ids"]
    return found


def answer(run: Run, round_: int, ids: Sequence[str] | None = None) -> Path:
    """Write what a round's references did where the run looks for it."""
    path = run.references_folder(round_) / "references.jsonl"
    wanted = asked_of(run, round_) if ids is None else ids
    told = lines(wanted, round_, round=round_, tokens=7)
    path.write_text("".join(json.dumps(line) + "\n" for line in told))
    return path


def step(run: Run, **more: Any) -> dict[str, Any]:
    """Everything by hand: outcomes of the round, then of the next one's references; the newest plan."""
    round_ = int(run.state["round"])
    if round_ >= 0:
        runs.write(run, round_, lines(run.ids(round_), round_, round=round_, **more))
    if round_ + 1 < run.config.rounds:
        with pytest.raises(OutcomeError, match=f"round {round_ + 1} waits for the outcomes of its 15"):
            advance(Run(run.folder))
        answer(run, round_ + 1)
    advance(Run(run.folder))
    return run.plan(run.state["round"])


def in_process(patch: pytest.MonkeyPatch) -> list[list[str]]:
    """Have commands of ours run in this process, to save their imports; the commands are kept."""
    commands: list[list[str]] = []

    def call(command: list[str], log: Path, **options: Any) -> float:
        commands.append(command)
        assert command[1:3] == ["-m", "gaincurate"]
        with torch.random.fork_rng():  # a trainer in this process draws on as if they ran elsewhere
            result = gaincurate(*command[3:])
        with log.open("a") as file:
            file.write(result.output)
        if result.exit_code == 130:
            raise KeyboardInterrupt
        if result.exit_code:
            raise TrainerError("failed")
        return 0.25

    patch.setattr(rescore, "run_command", call)
    return commands


def killed_at_each_write(
    patch: pytest.MonkeyPatch, work: Callable[[], object], after: bool
) -> Callable[[int], bool]:
    """Gives what runs `work` and kills it before, or behind, its n-th written file; False where it was done."""
    from gaincurate.core import files
    from gaincurate.core import prompts as rows

    whole = files.write_stream

    def run(number: int) -> bool:
        from contextlib import contextmanager

        count = 0

        @contextmanager
        def stream(path: Path) -> Any:
            nonlocal count
            count += 1
            if count == number and not after:
                raise KeyboardInterrupt
            with whole(path) as file:
                yield file
            if count == number and after:
                raise KeyboardInterrupt

        with patch.context() as inner:
            inner.setattr(files, "write_stream", stream)
            inner.setattr(rows, "write_stream", stream)
            try:
                work()
            except KeyboardInterrupt:
                return True
        return False

    return run

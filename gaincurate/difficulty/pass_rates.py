"""Observed pass rates: takes files of rollouts or of rates, yields wins and losses by id, policy by policy.

Reads a run's or a trainer's outcomes, where each round is a policy of its own, and tables (.parquet, .arrow,
.jsonl, or a folder of the first two) with `gc_id` and `reward`, or `wins` and `losses`, or `pass_rate` and
`samples`; a column `model` tells policies apart. Knows nothing of predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gaincurate.core.outcomes import Line, Rules, has_rounds, read_any_round
from gaincurate.difficulty.quality import Target, pass_variance
from gaincurate.difficulty.rate_tables import of_table, read_table
from gaincurate.errors import InputError
from gaincurate.files import digest_files
from gaincurate.schedule.noise import Floats

Tallies = dict[str, tuple[float, float]]
"""Wins and losses by id."""


@dataclass(frozen=True, slots=True)
class PassRates:
    """What one policy did. `wins[i]` and `losses[i]` belong to `ids[i]`, each id once, sorted.

    `counted` says that wins + losses are rollouts; else their sum is 1 and how many stand behind a rate is
    not known. `round` is the run's round, where there is one. `source` names the file, its hash and the range
    of its rewards.
    """

    name: str
    ids: list[str]
    wins: Floats
    losses: Floats
    counted: bool = True
    round: int | None = None
    source: dict[str, Any] | None = None

    @property
    def failure(self) -> Floats:
        """The failure rate d in [0, 1] of each prompt, `[prompts]`: 0 where every rollout succeeded."""
        rates: Floats = self.losses / (self.wins + self.losses)
        return rates

    def observed(self, target: Target) -> Floats:
        """Of each prompt what is aimed at, `[prompts]`: its failure rate, or p (1 - p) without bias.

        Raises:
            InputError: p (1 - p) is asked for and how many rollouts stand behind a rate is not known.
        """
        if target == "difficulty":
            return self.failure
        if not self.counted:
            raise InputError(
                f"{self.name}: p (1 - p) cannot be told from rates of unknown numbers of rollouts; give the "
                "file a column samples, or wins and losses."
            )
        return pass_variance(self.wins, self.losses)

    def with_rollouts(self, fewest: int) -> PassRates:
        """The prompts that have so many rollouts."""
        kept = np.flatnonzero(self.wins + self.losses >= fewest)
        if not self.counted or len(kept) == len(self.ids):
            return self
        ids = [self.ids[i] for i in kept.tolist()]
        return replace(self, ids=ids, wins=self.wins[kept], losses=self.losses[kept])


def read_pass_rates(
    path: Path,
    rules: Rules | None = None,
    *,
    option: str = "--outcomes",
    files: Sequence[Path] | None = None,
) -> list[PassRates]:
    """Every policy in a file or folder, in order of rounds or names.

    Args:
        path: see the module.
        rules: the range of rewards. Default: 0 to 1.
        option: what the user typed before the path, for the sentences of errors.
        files: outcomes round by round, of a run whose folder `path` is.

    Raises:
        InputError: nothing there, other columns, a value that is no rate, or no prompt that was judged.
        OutcomeError: an outcome line that cannot be used, with its number.
        StorageError: it cannot be read.
    """
    try:
        return _read(path, rules or Rules(), files)
    except InputError as error:
        said = str(error)  # its first word: a path may hold it too
        said = option + said.removeprefix("--outcomes") if said.startswith("--outcomes") else said
        raise type(error)(said, **error.data) from error


def _read(path: Path, rules: Rules, files: Sequence[Path] | None) -> list[PassRates]:
    if not path.exists():
        raise InputError(f"--outcomes {path} does not exist.", path=str(path))
    paths: Sequence[Path]
    if files is not None:
        paths = files
        found = _of_lines([line for file in paths for line in read_any_round(file, rules)], path)
    elif path.is_dir():
        paths = sorted([*path.rglob("*.arrow"), *path.rglob("*.parquet")])
        if not paths:
            raise InputError(f"--outcomes {path} has no .arrow or .parquet file and is no run.")
        tables = [read_table(file) for file in paths]
        table = pa.concat_tables(tables, promote_options="default")
        found = [PassRates(*one) for one in of_table(table, path, rules)]
    else:
        paths = [path]
        if path.suffix == ".jsonl" and has_rounds(path):
            found = _of_lines(read_any_round(path, rules), path)
        else:
            found = [PassRates(*one) for one in of_table(read_table(path), path, rules)]
    if not found:
        raise InputError(f"--outcomes {path} has no rollout that could be judged.", path=str(path))
    source = {"file": path.name, "hash": digest_files(paths), "reward_range": [rules.low, rules.high]}
    return [replace(rates, source=source) for rates in found]


def pooled(rates: Sequence[PassRates]) -> PassRates:
    """Several files about one policy as one.

    Raises:
        InputError: rates of unknown numbers of rollouts say different things about a prompt.
    """
    tallies: Tallies = {}
    counted = all(one.counted for one in rates)
    for one in rates:
        for gc_id, wins, losses in zip(one.ids, one.wins.tolist(), one.losses.tolist(), strict=True):
            if gc_id in tallies and not counted:
                raise InputError(
                    f"--outcomes: {gc_id!r} has two rates, and of how many rollouts is not said; give the "
                    "files a column samples."
                )
            before = tallies.get(gc_id, (0.0, 0.0))
            tallies[gc_id] = (before[0] + wins, before[1] + losses)
    found = _made(rates[0].name, tallies, counted)
    return replace(found, source={"files": [one.source for one in rates]})


def _made(name: str, tallies: Tallies, counted: bool = True, round_: int | None = None) -> PassRates:
    ids = sorted(gc_id for gc_id, (wins, losses) in tallies.items() if wins + losses > 0)
    table = np.array([tallies[gc_id] for gc_id in ids], float).reshape(-1, 2)
    return PassRates(name, ids, table[:, 0], table[:, 1], counted, round_)


def _of_lines(lines: Iterable[Line], path: Path) -> list[PassRates]:
    rounds: dict[int, Tallies] = {}
    for line in lines:
        if line.success is not None:
            _add(rounds.setdefault(line.round, {}), line.gc_id, line.success)
    return [_made(f"{path.name}, round {round_}", rounds[round_], round_=round_) for round_ in sorted(rounds)]


def _add(tallies: Tallies, gc_id: str, success: float, weight: float = 1.0) -> None:
    wins, losses = tallies.get(gc_id, (0.0, 0.0))
    tallies[gc_id] = (wins + success * weight, losses + (1 - success) * weight)

"""Which part of a split run this process is: `--shard I/N`, or `--shard auto` by what its scheduler says.

A Slurm array comes first because its tasks also have the variables of a step, of one process as a rule. What
is half there is refused rather than passed over: a part that takes itself for another would leave a hole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from gaincurate.core.locks import Split
from gaincurate.errors import InputError

SHARDS = "GAINCURATE_SHARDS"
"""The number of parts, which Kubernetes does not say."""
_ARRAY = "SLURM_ARRAY_TASK_"
_RANKS = {"JOB_COMPLETION_INDEX": SHARDS, "SLURM_PROCID": "SLURM_NTASKS", "RANK": "WORLD_SIZE"}
"""A number from 0, and the variable with the number of parts; the first that is there is taken."""


def read_split(value: str) -> Split:
    """The value of `--shard`.

    Raises:
        InputError: it is neither `auto` nor I/N, or no scheduler says which part this is.
    """
    if value == "auto":
        return split_of_job(os.environ)
    part = re.fullmatch(r"(\d{1,18})/(\d{1,18})", value)
    if not part or not 1 <= int(part[1]) <= int(part[2]):
        raise InputError(f"--shard {value}: expected I/N with I from 1 to N, such as 1/4, or auto.")
    return Split(int(part[1]), int(part[2]))


def split_of_job(environment: Mapping[str, str]) -> Split:
    """The part that this process is of a Slurm array, a Kubernetes Job, a Slurm step or torchrun, in order.

    Args:
        environment: the process's variables. An empty one counts as none.

    Raises:
        InputError: none of them is there, or one without what belongs to it, or with what cannot be.
    """
    present = {name: value.strip() for name, value in environment.items() if value.strip()}

    def number(name: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", present.get(name, "")):
            raise InputError(
                f"--shard auto: {name} is {present.get(name)!r}, not a whole number; give --shard I/N."
            )
        return int(present[name])

    if any(f"{_ARRAY}{name}" in present for name in ("ID", "COUNT")):
        task, first, count = (number(f"{_ARRAY}{name}") for name in ("ID", "MIN", "COUNT"))
        step = number(f"{_ARRAY}STEP") if f"{_ARRAY}STEP" in present else 1
        last = number(f"{_ARRAY}MAX") if f"{_ARRAY}MAX" in present else first + step * (count - 1)
        even = step and (last - first) // step == count - 1 and first <= task <= last
        if not even or (task - first) % step:
            raise InputError(
                f"--shard auto: task {task} is not one of {count} array ids in even steps from {first} to "
                f"{last}; number the tasks as --array=1-{count}, or give --shard I/N."
            )
        return Split((task - first) // step + 1, count, f"{_ARRAY}ID")
    for index, count_name in _RANKS.items():
        if index in present:
            rank, parts = number(index), number(count_name)
            if rank >= parts:
                raise InputError(f"--shard auto: {index}={rank} is not below {count_name}={parts}.")
            return Split(rank + 1, parts, index)
    pairs = ", ".join(f"{index} with {count}" for index, count in _RANKS.items())
    raise InputError(
        f"--shard auto: none of these variables is set: {_ARRAY}ID with {_ARRAY}COUNT, {pairs}; give "
        "--shard I/N."
    )

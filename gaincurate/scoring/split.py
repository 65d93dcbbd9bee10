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
_ID, _MIN, _MAX, _STEP, _COUNT = (
    f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT")
)
_RANKS = {"JOB_COMPLETION_INDEX": SHARDS, "SLURM_PROCID": "SLURM_NTASKS", "RANK": "WORLD_SIZE"}
"""A number from 0, and what says of how many; the first that is there is taken."""
_BY_HAND = "give --shard I/N"


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
    present = {name: value for name, value in environment.items() if value.strip()}
    if _ID in present:
        return _of_array(present)
    for index, count in _RANKS.items():
        if index in present:
            rank, parts = _number(present, index), _number(present, count, least=1, beside=index)
            if rank >= parts:
                raise InputError(f"--shard auto: {index}={rank} is none of {count}={parts}, counted from 0.")
            return Split(rank + 1, parts, index)
    for index, count in {_ID: _COUNT, **_RANKS}.items():
        if count in present:
            raise InputError(
                f"--shard auto: {count} is set and {index} is not, which says which part this is; {_BY_HAND}."
            )
    pairs = ", ".join(f"{index} with {count}" for index, count in {_ID: _COUNT, **_RANKS}.items())
    raise InputError(f"--shard auto: none of these variables is set: {pairs}; {_BY_HAND}.")


def _of_array(present: Mapping[str, str]) -> Split:
    task, first = _number(present, _ID), _number(present, _MIN, beside=_ID)
    count = _number(present, _COUNT, least=1, beside=_ID)
    step = _number(present, _STEP, least=1) if _STEP in present else 1
    last = _number(present, _MAX) if _MAX in present else first + step * (count - 1)
    if (last - first) // step != count - 1 or (task - first) % step:
        raise InputError(
            f"--shard auto: the array has {count} ids from {first} to {last}, which are not evenly stepped; "
            f"number its tasks as --array=1-{count}, or {_BY_HAND}."
        )
    place = (task - first) // step
    if not 0 <= place < count:
        raise InputError(
            f"--shard auto: {_ID}={task} is none of {count} ids from {first} in steps of {step}; {_BY_HAND}."
        )
    return Split(place + 1, count, _ID)


def _number(present: Mapping[str, str], name: str, *, least: int = 0, beside: str = "") -> int:
    if name not in present:
        says = ", which says of how many parts" if name in _RANKS.values() else ""
        raise InputError(f"--shard auto: {beside} is set and {name} is not{says}; {_BY_HAND}.")
    value = present[name].strip()
    if not re.fullmatch(r"[0-9]{1,18}", value) or int(value) < least:
        raise InputError(f"--shard auto: {name}={value!r} is no whole number from {least}; {_BY_HAND}.")
    return int(value)

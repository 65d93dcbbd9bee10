"""A replay buffer's state as one file in a trainer's checkpoint.

The file has a line of JSON, then the groups as Parquet. It is written atomically, and digests reveal damage,
because a training on damaged groups would raise no error.
"""

from __future__ import annotations

import json
from pathlib import Path

from gaincurate.core.files import digest_bytes, reading, write_stream
from gaincurate.core.foreign import read_bytes
from gaincurate.core.sealed import seal, unseal
from gaincurate.errors import OutputError
from gaincurate.replay.buffer import ReplayBuffer

NAME = "gaincurate_replay.bin"
"""The name of the file in a checkpoint's folder."""


def save(buffer: ReplayBuffer, path: Path) -> None:
    """Write a buffer's state atomically.

    Raises:
        StorageError: the file system refused.
    """
    state = buffer.state_dict()
    groups = state.pop("groups")
    head = json.dumps(seal({**state, "groups": digest_bytes(groups)}), ensure_ascii=False)
    with write_stream(path) as file:
        file.write(head.encode() + b"\n")
        file.write(groups)


def load(buffer: ReplayBuffer, path: Path, *, begin_empty: bool = False) -> None:
    """Restore a buffer's state.

    Args:
        buffer: a buffer of the same sizes.
        path: a file that `save` wrote.
        begin_empty: leave the buffer unchanged if there is no such file.

    Raises:
        OutputError: the file is missing or damaged, or of a buffer of other sizes; nothing changes.
        StorageError: the file cannot be read.
    """
    if not path.exists():
        if begin_empty:
            return
        raise OutputError(
            f"{path.parent} has no {path.name}: it was saved by a trainer that did not replay, or that was "
            "killed while it saved. Resume from a checkpoint that has it, or set begin_empty=True.",
            path=str(path),
        )
    with reading(path):
        data = read_bytes(path)
    head, _, groups = data.partition(b"\n")
    state = unseal(head)
    if state is None or state.get("groups") != digest_bytes(groups):
        raise OutputError(
            f"{path} is damaged, or no replay buffer's state. Resume from an earlier checkpoint.",
            path=str(path),
        )
    buffer.load_state({**state, "groups": groups})

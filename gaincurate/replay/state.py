"""A replay buffer's state as one file beside a trainer's checkpoint.

The file is a line of JSON, then the groups as an Arrow stream. It is written whole or not at all, and a
digest shows what was damaged since: groups that are only nearly right would train in silence.
"""

from __future__ import annotations

import json
from pathlib import Path

from gaincurate.core.files import digest_bytes, reading, write_stream
from gaincurate.core.foreign import json_value, read_bytes
from gaincurate.errors import OutputError
from gaincurate.replay.buffer import ReplayBuffer

NAME = "gaincurate_replay.bin"
"""What the file is called in a checkpoint's folder."""


def save(buffer: ReplayBuffer, path: Path) -> None:
    """Write a buffer's state; `path` is as before or complete, also after a crash.

    Raises:
        StorageError: the file system refused.
    """
    state = buffer.state_dict()
    groups = state.pop("groups")
    head = json.dumps({**state, "digest": digest_bytes(groups)}, ensure_ascii=False)
    with write_stream(path) as file:
        file.write(head.encode() + b"\n")
        file.write(groups)


def load(buffer: ReplayBuffer, path: Path) -> None:
    """Make a buffer what it was when `path` was written.

    Raises:
        OutputError: the file is damaged, or of a buffer of other sizes; nothing was changed.
        StorageError: it cannot be read.
    """
    with reading(path):
        data = read_bytes(path)
    head, _, groups = data.partition(b"\n")
    try:
        state = json_value(head)
        digest = state.pop("digest")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path) from error
    if digest_bytes(groups) != digest:
        raise _damaged(path)
    buffer.load_state({**state, "groups": groups})


def _damaged(path: Path) -> OutputError:
    return OutputError(
        f"{path} is damaged: it is cut short, or no state of a replay buffer. Go back to the checkpoint "
        "before it.",
        path=str(path),
    )

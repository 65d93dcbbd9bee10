"""The place of a run beside a trainer's checkpoint: takes the checkpoint, yields what was saved there.

Knows nothing of what is in it; `gaincurate/schedule/back.py` does.
"""

from __future__ import annotations

from pathlib import Path

from gaincurate.core.artifact import Json
from gaincurate.errors import OutputError
from gaincurate.schedule.run import read_json

PLACE = "gaincurate_state.json"
"""The file beside a checkpoint that says where the run was."""


def place_beside(checkpoint: str | Path) -> Json:
    """The place in a checkpoint's folder.

    Raises:
        OutputError: there is none, or a damaged one.
    """
    path = Path(checkpoint) / PLACE
    if not path.exists():
        raise OutputError(
            f"{checkpoint} has no {PLACE}: it was not saved by a trainer that followed a run. Resume "
            "from one that has it, or start anew with a new run.",
            path=str(path),
        )
    return read_json(path)

"""Work that one process does and all wait for: takes a function, yields its result on every process.

Planning a round can take as long as scoring a set does. The others hear from the first process every few
seconds, so no collective runs into its time limit, and what it raises is raised on all. Knows nothing of
what the work is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from gaincurate.errors import GaincurateError

BEAT = 5.0
"""Seconds between two signs of life; torch's own limits are 10 minutes and more."""


def together(work: Callable[[], Any], accelerator: Any) -> Any:
    """Run `work` on the main process alone and give every process its result.

    Args:
        work: its result is sent to the others, so it must be plain.
        accelerator: of the trainer (`is_main_process`, `num_processes`).

    Raises:
        GaincurateError: of the same class and with the same sentence on every process.
        RuntimeError: on the others, where the main process met another error.
    """
    if accelerator.num_processes == 1:
        return work()
    if not accelerator.is_main_process:
        while (told := _tell(None))[0] == "at work":
            pass
        return _result(told)
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(("done", work()))
        except BaseException as error:  # raised again below
            outcome.append(("failed", error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(BEAT)
        if thread.is_alive():
            _tell(("at work", None))
    state, value = outcome[0]
    if state == "done":
        return _result(_tell((state, value)))
    kind = type(value) if isinstance(value, GaincurateError) else RuntimeError
    said = str(value) if kind is not RuntimeError else f"the main process failed: {value!r}"
    _tell(("failed", (kind, said)))
    raise value


def _tell(value: tuple[str, Any] | None) -> tuple[str, Any]:
    from accelerate.utils import broadcast_object_list

    found: tuple[str, Any] = broadcast_object_list([value])[0]
    return found


def _result(told: tuple[str, Any]) -> Any:
    state, value = told
    if state == "failed":
        kind, said = value
        raise kind(said)
    return value

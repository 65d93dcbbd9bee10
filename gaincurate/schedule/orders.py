"""The orders of a run: takes its folder, yields the one in use, the next one and those to go back to.

An order is known by its digest, which states name, so that a kill between two writes loses nothing. Knows
nothing of how one is made.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gaincurate.errors import OutputError, storage_error
from gaincurate.schedule.order import Order

ORDER, _NEXT, _KEPT = "order.arrow", "order-next.arrow", "orders"


class Orders:
    """The orders in a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.current = folder / ORDER
        """The order in use."""
        self.next = folder / _NEXT
        """Where an order is written that is to take the place of the one in use."""
        self._folder = folder / _KEPT

    def find(self, digest: str) -> Order:
        """The order with this content: in use, about to be, or kept.

        Raises:
            OutputError: there is none.
        """
        for path in (self.current, self.next, self._kept(digest)):
            if path.exists() and (found := Order(path)).digest == digest:
                return found
        raise OutputError(
            f"{self.current} is missing or is not the order that the run's state goes with; restore it.",
            path=str(self.current),
        )

    def settle(self, digest: str) -> None:
        """Put the order of the newest state in its place; a kill can come before that."""
        if self.next.exists():
            if Order(self.next).digest == digest:
                self.next.replace(self.current)
            else:
                self.next.unlink()
        kept = self._kept(digest)
        if kept.exists() and Order(self.current).digest != digest:
            same_file(kept, self.next)
            self.next.replace(self.current)

    def keep(self) -> None:
        """Keep the order in use under a name of its own, for a trainer that may go back to it."""
        kept = self._kept(Order(self.current).digest)
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            beside = kept.with_suffix(".tmp")
            same_file(self.current, beside)
            beside.replace(kept)

    def forget_all_but(self, digests: set[str]) -> None:
        """Delete the kept ones that nothing can go back to any more."""
        for path in self._folder.glob("*.arrow"):
            if path.stem not in digests:
                path.unlink(missing_ok=True)

    def _kept(self, digest: str) -> Path:
        return self._folder / f"{digest}.arrow"


def same_file(source: Path, goal: Path) -> None:
    """A second name for a file, or a copy where the file system has no such names."""
    goal.unlink(missing_ok=True)
    try:
        os.link(source, goal)
    except OSError:
        try:
            shutil.copyfile(source, goal)
        except OSError as error:
            raise storage_error(goal, error) from error

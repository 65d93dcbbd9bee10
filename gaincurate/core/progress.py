"""How long work reports where it is: engines call a `Progress`, whoever wants to see the work overrides it.

Every method does nothing by default, so that an engine needs no "is anybody watching". It is a class and not
a `typing.Protocol` for that reason.
"""

from __future__ import annotations


class Progress:
    """What long work says of itself. All methods are called from one thread, unless an engine says otherwise.

    The work is so many units (rows, prompts, trainings), of which some may be done already. A new `start`
    begins another piece of work, such as rollouts after the verification of gold answers.
    """

    def start(self, total: int, done: float = 0, *, what: str = "", unit: str = "row") -> None:
        """Work begins.

        Args:
            total: how many units there are.
            done: how many of them an earlier run did.
            what: the work's name, such as `scoring`.
            unit: what one unit is called, in the singular.
        """

    def advance(self, n: float, **also: int) -> None:
        """`n` more units are done; `also` counts what else passed by its name, such as `tokens`.

        Both may be negative: what was done is done again after an error.
        """

    def part(self, text: str) -> None:
        """A part of the work, such as a shard, is done and kept."""

    def note(self, text: str) -> None:
        """A sentence worth reading once."""

"""What a trainer reports: takes the lines of a round's `outcomes.jsonl`, yields each prompt's successes.

One line a rollout: {"gc_id", "reward", "round", "sample"?, "step"?, "correct"?, "attempt"?}; other keys
are let be. Two lines steer: {"resume_from_step": s} voids this round's lines after step s, and
{"attempt": k} numbers the lines behind it. Knows nothing of strategies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from gaincurate.errors import OutcomeError
from gaincurate.files import reading
from gaincurate.schedule.lines import Key, Line, Rules, newest_attempts, read_lines

_SHOWN = 5


@dataclass(slots=True)
class Tally:
    """One prompt: successes in [0, 1], one for each rollout that could be judged, and how many could not."""

    successes: list[float] = field(default_factory=list)
    unjudged: int = 0

    def add(self, success: float | None) -> None:
        """One more rollout; None could not be judged."""
        if success is None:
            self.unjudged += 1
        else:
            self.successes.append(success)

    @property
    def mean(self) -> float | None:
        """Mean success; None where nothing could be judged."""
        return math.fsum(self.successes) / len(self.successes) if self.successes else None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """A round's outcomes. `tallies` is by id, in the round's order.

    `repeated` lines said again what was known, `void` ones were taken back by a resumed or repeated attempt;
    `cut` says that the last line was not finished. `tokens` sums the lines' own `tokens`, where they have
    them. `size` is how many bytes of the file were read.
    """

    tallies: dict[str, Tally]
    repeated: int
    void: int
    cut: bool
    tokens: int
    size: int

    @property
    def accuracy(self) -> float | None:
        """Acc_t: the mean over prompts of each one's mean success; None where nothing could be judged."""
        means = [mean for tally in self.tallies.values() if (mean := tally.mean) is not None]
        return math.fsum(means) / len(means) if means else None

    @property
    def effective(self) -> float | None:
        """Share of the judged prompts whose rollouts did not all succeed or all fail (0 < p < 1)."""
        means = [mean for tally in self.tallies.values() if (mean := tally.mean) is not None]
        return sum(0 < mean < 1 for mean in means) / len(means) if means else None

    @property
    def rollouts(self) -> int:
        """Lines that count in this round."""
        return sum(len(tally.successes) + tally.unjudged for tally in self.tallies.values())

    @property
    def unjudged(self) -> int:
        """Of those, the ones without a reward."""
        return sum(tally.unjudged for tally in self.tallies.values())


def read_outcomes(
    path: Path, round_: int, ids: Collection[str], ids_of: Callable[[int], Collection[str]], rules: Rules
) -> Outcomes:
    """Read and check a round's file; lines of earlier rounds are checked and left to `split_lines`.

    Args:
        path: `outcomes.jsonl`.
        round_: the round that it belongs to.
        ids: of the round's prompts.
        ids_of: those of an earlier round.
        rules: range and coverage.

    Raises:
        OutcomeError: no file, a broken line, an id or a round that was not planned, a reward that is no
            number in the range, or too few prompts.
        StorageError: it cannot be read.
    """
    with reading(path):
        if not path.exists():
            raise OutcomeError(
                f"round {round_} has no outcomes: {path} is not there. The trainer writes it, one line for "
                'each rollout: {"gc_id": ..., "reward": ..., "round": ' + str(round_) + "}.",
                path=str(path),
            )
        data = path.read_bytes()
    whole, _, tail = data.rpartition(b"\n")
    lines, void = read_lines(whole, path, round_, frozenset(ids), ids_of, rules)
    kept, replaced = newest_attempts([line for line in lines if line.round == round_])
    tallies = {gc_id: Tally() for gc_id in ids}
    known, repeated, tokens = set[Key](), 0, 0
    for line in kept:
        if not line.is_new(known):
            repeated += 1
            continue
        tokens += line.tokens
        tallies[line.gc_id].add(line.success)
    size = len(data) - len(tail)
    return Outcomes(tallies, repeated, void + replaced, bool(tail.strip()), tokens, size)


def split_lines(
    path: Path, since: int, round_: int, ids_of: Callable[[int], Collection[str]], rules: Rules
) -> tuple[list[Line], list[Line], int]:
    """A file's lines before and behind the place up to which it was taken, and its size now.

    Behind it, what follows a steering line is training done again whose outcomes are taken: it is left out.

    Args:
        path: the file.
        since: its size when it was taken.
        round_: the round that it belongs to.
        ids_of: the prompts of a round.
        rules: range of rewards.

    Raises:
        OutcomeError: as `read_outcomes`.
        StorageError: it cannot be read.
    """
    with reading(path):
        data = path.read_bytes()
    size = max(data.rfind(b"\n") + 1, since)
    ids = frozenset(ids_of(round_))
    old, _ = read_lines(data[:since].rstrip(b"\n"), path, round_, ids, ids_of, rules)
    before = data[:since].count(b"\n")
    new, _ = read_lines(data[since:size].rstrip(b"\n"), path, round_, ids, ids_of, rules, before)
    return old, new, size


def check_coverage(found: Outcomes, round_: int, path: Path, rules: Rules) -> None:
    """Refuse a round of which too little came back.

    Raises:
        OutcomeError: fewer prompts than asked for have an outcome, or none could be judged.
    """
    absent = [i for i, tally in found.tallies.items() if not tally.successes and not tally.unjudged]
    count, size = len(found.tallies) - len(absent), len(found.tallies)
    if count < math.ceil(rules.coverage * size - 1e-9):
        more = f" and {len(absent) - _SHOWN:,} more" if len(absent) > _SHOWN else ""
        cut = " Its last line is not finished and was left out." if found.cut else ""
        raise OutcomeError(
            f"round {round_} has outcomes for {count:,} of its {size:,} prompts and {rules.coverage:.0%} of "
            f"them are needed (--min-coverage); {path} lacks {', '.join(absent[:_SHOWN])}{more}.{cut}",
            path=str(path),
            ids=absent,
        )
    if found.accuracy is None:
        raise OutcomeError(
            f"round {round_}: not one of the {found.rollouts:,} rollouts in {path} could be judged (reward "
            "null), so there is no accuracy. Is the reward function at work?",
            path=str(path),
        )

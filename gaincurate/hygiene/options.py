"""The checks that a user asked for, as one checked value.

An option of a check that is not made is refused: whoever gave it expects that check.
"""

from __future__ import annotations

from dataclasses import dataclass

from gaincurate.core.options import near
from gaincurate.difficulty.verifier import VerifierConfig
from gaincurate.errors import InputError
from gaincurate.hygiene.duplicates import THRESHOLD
from gaincurate.hygiene.findings import CHECKS

NGRAM = 13
_NEEDS = {
    "overlong": ("max_prompt_tokens", "--max-prompt-tokens", "N, the trainer's limit"),
    "broken-gold": ("verifier", "--verifier", "NAME"),
    "contaminated": ("evals", "--eval", "FILE"),
}
_ALSO = {"--verifier": "conflicting-gold"}
"""Checks that an option is for besides its own. Without it, answers are compared as they are written."""


@dataclass(frozen=True, slots=True)
class HygieneOptions:
    """The checks to run.

    `checks` names them; None is all that the other options allow. `near` is the least Jaccard index of near
    duplicates, `max_prompt_tokens` a trainer's limit, `verifier` judges gold answers in `answer_column`
    (default: the scoring run's). `evals` are files with evaluation questions in `eval_column`, `ngram` the
    words in an n-gram, `overlap` the least part of a question's n-grams that a row shares (0: one is enough).

    Raises:
        InputError: an unknown check, one without its option or the other way round, a number out of range.
    """

    checks: tuple[str, ...] | None = None
    near: float = THRESHOLD
    max_prompt_tokens: int | None = None
    verifier: VerifierConfig | None = None
    answer_column: str | None = None
    evals: tuple[str, ...] = ()
    eval_column: str | None = None
    ngram: int = NGRAM
    overlap: float = 0.0

    def __post_init__(self) -> None:
        for check in self.checks or ():
            if check not in CHECKS:
                raise InputError(
                    f"there is no check {check!r}; there are {', '.join(CHECKS)}{near(check, CHECKS)}."
                )
        for check, (name, option, value) in _NEEDS.items():
            is_set, wanted = bool(getattr(self, name)), check in (self.checks or ())
            if wanted and not is_set:
                raise InputError(f"{check} needs {option} {value}.")
            used = wanted or self.checks is None or _ALSO.get(option) in self.checks
            if is_set and not used:
                raise InputError(f"{option} is for the check {check}: name that too, or leave {option} out.")
        if not 0 <= self.overlap <= 1:
            raise InputError(f"--overlap {self.overlap:g}: a part from 0 to 1 is expected.")

    def chosen(self) -> list[str]:
        """The checks to make, in their order."""
        if self.checks is not None:
            return [check for check in CHECKS if check in self.checks]
        needs = {**_NEEDS, "conflicting-gold": _NEEDS["broken-gold"]}  # else notation alone would count
        return [check for check in CHECKS if check not in needs or getattr(self, needs[check][0])]

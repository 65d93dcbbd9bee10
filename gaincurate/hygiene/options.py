"""The checks of rows, and the options that `hygiene` and `export --drop` share.

An option of a check that does not run is refused, because its user expects that check. This module does not
import numpy, because the help of both commands imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from gaincurate.core.options import CHECKS as PANEL
from gaincurate.core.options import Option, near
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.difficulty.config import VerifierConfig

CHECKS = (
    "overlong", "sentinel-gold", "word-gold", "broken-gold", "conflicting-gold", "contaminated", "duplicates",
    "near-duplicates",
)  # fmt: skip
"""All checks, in the order in which they drop rows: prompts and golds before contamination and duplicates."""
_NEEDED = {
    "max_prompt_tokens": ("--max-prompt-tokens", "N, the trainer's limit", ("overlong",)),
    "verifier": ("--verifier", "NAME", ("broken-gold", "conflicting-gold")),
    "evals": ("--eval", "FILE", ("contaminated",)),
}
"""The options that checks need: option, value, and its checks, of which only the first requires it."""


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
    near: float = 0.8
    max_prompt_tokens: int | None = None
    verifier: VerifierConfig | None = None
    answer_column: str | None = None
    evals: tuple[str, ...] = ()
    eval_column: str | None = None
    ngram: int = 13
    overlap: float = 0.0

    def __post_init__(self) -> None:
        for check in self.checks or ():
            if check not in CHECKS:
                raise InputError(
                    f"there is no check {check!r}; there are {', '.join(CHECKS)}{near(check, CHECKS)}."
                )
        for name, (option, value, checks) in _NEEDED.items():
            is_set, wanted = bool(getattr(self, name)), set(checks) & set(self.checks or ())
            if checks[0] in wanted and not is_set:
                raise InputError(f"{checks[0]} needs {option} {value}.")
            if is_set and self.checks is not None and not wanted:
                what = f"{option} is for the check {checks[0]}"
                raise InputError(f"{what}: name that too, or leave {option} out.")
        for name, least, most in (("near", 0.3, 1), ("ngram", 2, 100), ("overlap", 0, 1)):
            if not least <= (value := getattr(self, name)) <= most:
                raise InputError(f"--{name} {value:g}: expected a number from {least:g} to {most}.")

    def chosen(self) -> list[str]:
        """The checks to make, in their order."""
        if self.checks is not None:
            return [check for check in CHECKS if check in self.checks]
        lacking = [check for name, (*_, some) in _NEEDED.items() if not getattr(self, name) for check in some]
        return [check for check in CHECKS if check not in lacking]


_OPTION, _NAME = Option(panel=PANEL), Option(panel=PANEL, metavar="NAME")


class HygieneConfig(BaseModel):
    """The options of every command that checks rows; None means not given.

    Options:
        max_prompt_tokens: Overlong: the trainer's limit.
        verifier: Broken and conflicting gold: math, reasoning-gym, exact or module:function.
        gold_as: Broken gold: how the answer is written, with {answer} in it.
        answer_column: Column with the gold answer. Default: the scoring run's.
        evals: Contaminated: an evaluation set; may be repeated.
        eval_column: Contaminated: the column with the question. Default: as `score` finds it.
        near: Near duplicates: the least Jaccard index of token triples. Default: 0.8.
        ngram: Contaminated: words in an n-gram. Default: 13.
        overlap: Contaminated: the least part of a question's n-grams. Default: 0, one is enough.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_prompt_tokens: Annotated[int | None, Field(ge=1), _OPTION] = None
    verifier: Annotated[str | None, _NAME] = None
    gold_as: Annotated[str | None, _OPTION] = None
    answer_column: Annotated[str | None, _NAME] = None
    evals: Annotated[list[str], Option(panel=PANEL, names=("--eval",), metavar="FILE")] = []
    eval_column: Annotated[str | None, _NAME] = None
    near: Annotated[float | None, Field(ge=0.3, le=1), _OPTION] = None
    ngram: Annotated[int | None, Field(ge=2, le=100), _OPTION] = None
    overlap: Annotated[float | None, Field(ge=0, le=1), _OPTION] = None

    def options(self, checks: str | None) -> HygieneOptions:
        """The options of the checks in a comma-separated list; an InputError for incompatible options."""
        from gaincurate.difficulty.config import VerifierConfig

        given = self.model_dump(exclude_none=True) | {"evals": tuple(self.evals)}
        verifier, gold_as = given.pop("verifier", None), given.pop("gold_as", None)
        if gold_as is not None and verifier is None:
            raise InputError(f"--gold-as {gold_as!r} goes with --verifier NAME.")
        for name in ("eval_column", "ngram", "overlap"):
            if name in given and not self.evals:
                raise InputError(f"--{name.replace('_', '-')} {given[name]} goes with --eval FILE.")
        if checks is not None:
            given["checks"] = tuple(name.strip() for name in checks.split(",") if name.strip())
        if verifier is not None:
            given["verifier"] = VerifierConfig(verifier=verifier, gold_as=gold_as)
        options = HygieneOptions(**given)
        if "near" in given and "near-duplicates" not in options.chosen():
            raise InputError("--near is for the check near-duplicates: name that too, or leave --near out.")
        return options

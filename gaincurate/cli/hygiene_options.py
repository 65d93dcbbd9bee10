"""The options of `hygiene`, of `export --drop` and of `report`: takes what was typed, yields checked ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.hygiene.options import HygieneOptions

# None where an option is not given, so that one that would do nothing can be refused.
Near = Annotated[
    float | None,
    typer.Option(
        min=0.3, max=1, help="Near duplicates: the least Jaccard index of token triples. Default: 0.8."
    ),
]
AnyNumbers = Annotated[
    bool,
    typer.Option("--near-any-numbers", help="Near duplicates: also where the two have other numbers."),
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-prompt-tokens", metavar="N", min=1, help="Overlong: the trainer's limit.")
]
Verifier = Annotated[
    str | None,
    typer.Option(help="Broken and conflicting gold: math, reasoning-gym, exact or module:function."),
]
GoldAs = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Broken gold: how the answer is written, with {answer} in it."),
]
AnswerColumn = Annotated[
    str | None, typer.Option(help="Column with the gold answer. Default: the scoring run's.")
]
Evals = Annotated[
    list[str] | None,
    typer.Option("--eval", metavar="FILE", help="Contaminated: an evaluation set; may be repeated."),
]
EvalColumn = Annotated[
    str | None, typer.Option(help="Contaminated: the column with the question. Default: as `score` finds it.")
]
Ngram = Annotated[
    int | None, typer.Option(min=2, metavar="N", help="Contaminated: words in an n-gram. Default: 13.")
]
Overlap = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Contaminated: the least part of a question's n-grams. Default: 0, one is enough."
    ),
]


def hygiene_options(
    checks: str | None,
    *,
    near: float | None = None,
    any_numbers: bool = False,
    max_prompt_tokens: int | None,
    verifier: str | None,
    gold_as: str | None,
    answer_column: str | None,
    evals: list[str] | None,
    eval_column: str | None,
    ngram: int | None = None,
    overlap: float | None = None,
) -> HygieneOptions:
    """The options as one value; `checks` are names with commas between them, None is an option not given.

    Raises:
        InputError: an unknown check, one without what it needs, or an option without what it goes with.
    """
    from gaincurate.difficulty.verify import VerifierConfig
    from gaincurate.hygiene.near_duplicates import THRESHOLD, Likeness
    from gaincurate.hygiene.options import NGRAM, HygieneOptions

    if gold_as is not None and verifier is None:
        raise InputError(f"--gold-as {gold_as!r} goes with --verifier NAME.")
    for option, value in (("eval-column", eval_column), ("ngram", ngram), ("overlap", overlap)):
        if value is not None and not evals:
            raise InputError(f"--{option} {value} goes with --eval FILE.")
    named = None if checks is None else tuple(name.strip() for name in checks.split(",") if name.strip())
    found = HygieneOptions(
        named,
        Likeness(THRESHOLD if near is None else near, any_numbers),
        max_prompt_tokens,
        VerifierConfig(verifier, gold_as=gold_as) if verifier is not None else None,
        answer_column,
        tuple(evals or ()),
        eval_column,
        NGRAM if ngram is None else ngram,
        overlap or 0.0,
    )
    given = "--near" if near is not None else "--near-any-numbers" if any_numbers else None
    if given is not None and "near-duplicates" in found.skipped():
        raise InputError(f"{given} needs rensa: `pip install 'gaincurate[hygiene]'`.")
    if given is not None and "near-duplicates" not in found.chosen():
        raise InputError(f"{given} is for the check near-duplicates: name that too, or leave {given} out.")
    return found


def report_checks(
    *,
    max_prompt_tokens: int | None,
    verifier: str | None,
    gold_as: str | None,
    answer_column: str | None,
    evals: list[str] | None,
    eval_column: str | None,
    near_duplicates: bool,
) -> HygieneOptions:
    """What a report looks for: all that its options allow, near duplicates only if asked for.

    Raises:
        InputError: an option without what it goes with, or no library for near duplicates.
    """
    found = hygiene_options(
        None,
        max_prompt_tokens=max_prompt_tokens,
        verifier=verifier,
        gold_as=gold_as,
        answer_column=answer_column,
        evals=evals,
        eval_column=eval_column,
    )
    wanted = tuple(check for check in found.chosen() if check != "near-duplicates")
    return replace(found, checks=(*wanted, "near-duplicates") if near_duplicates else wanted)

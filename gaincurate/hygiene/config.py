"""The options of checks of rows, as `hygiene` and `export --drop` share them.

None is an option that was not given, so that one that would do nothing can be refused. Apart from
`gaincurate.hygiene.options`, which has what the checks get, because that loads numpy and the help must not.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gaincurate.core.options import CHECKS, Option


class HygieneConfig(BaseModel):
    """The options of every command that examines rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_prompt_tokens: Annotated[
        int | None, Field(ge=1), Option("Overlong: the trainer's limit.", CHECKS)
    ] = None
    verifier: Annotated[
        str | None,
        Option(
            "Broken and conflicting gold: math, reasoning-gym, exact or module:function.",
            CHECKS,
            metavar="NAME",
        ),
    ] = None
    gold_as: Annotated[
        str | None, Option("Broken gold: how the answer is written, with {answer} in it.", CHECKS)
    ] = None
    answer_column: Annotated[
        str | None,
        Option("Column with the gold answer. Default: the scoring run's.", CHECKS, metavar="NAME"),
    ] = None
    evals: Annotated[
        list[str],
        Option(
            "Contaminated: an evaluation set; may be repeated.", CHECKS, names=("--eval",), metavar="FILE"
        ),
    ] = Field(default_factory=list)
    eval_column: Annotated[
        str | None,
        Option(
            "Contaminated: the column with the question. Default: as `score` finds it.",
            CHECKS,
            metavar="NAME",
        ),
    ] = None
    near: Annotated[
        float | None,
        Field(ge=0.3, le=1),
        Option("Near duplicates: the least Jaccard index of token triples. Default: 0.8.", CHECKS),
    ] = None
    ngram: Annotated[
        int | None, Field(ge=2, le=100), Option("Contaminated: words in an n-gram. Default: 13.", CHECKS)
    ] = None
    overlap: Annotated[
        float | None,
        Field(ge=0, le=1),
        Option("Contaminated: the least part of a question's n-grams. Default: 0, one is enough.", CHECKS),
    ] = None

"""The options of `gaincurate derive`, apart from `length_free`, which loads numpy: the help must not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gaincurate.core.options import Option

Way = Literal["residual", "rank-in-bin"]


class DeriveConfig(BaseModel):
    """A column to free of length, how, and what the new one is called."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    folder: Annotated[Path, Option("A finished scored set.", metavar="DIR", argument=True)]
    signal: Annotated[str, Option("The number column to free of length.", metavar="COLUMN")]
    length_free: Annotated[
        Way,
        Option(
            "residual: less its usual value at that length, a spline on log length (needs scipy). "
            "rank-in-bin: its rank among rows of about the same length."
        ),
    ]
    bins: Annotated[
        int | None,
        Field(ge=1),
        Option("For rank-in-bin: length bins of about equally many rows. Default: 20."),
    ] = None
    name: Annotated[
        str | None,
        Option("Of the new column. Default: COLUMN_residual or COLUMN_rank_in_bin.", metavar="NAME"),
    ] = None
    overwrite: Annotated[bool, Option("Replace a column of that name that was made otherwise.")] = False

"""The options of commands that name trainers: `schedule next`, `schedule run` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gaincurate.core.options import Option
from gaincurate.trainers.names import with_part

_Run = Annotated[Path, Option("The run's folder.", metavar="RUN", argument=True)]
_Trainer = Annotated[
    str | None,
    Option(f"Whose checkpoints: {', '.join(with_part('layout'))}. Default: the last one given.", metavar="T"),
]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NextConfig(_Options):
    """The options of `gaincurate schedule next`."""

    run: _Run
    checkpoint: Annotated[
        Path | None,
        Option("What the round's training left, where a re-scoring is due; with --trainer its output root."),
    ] = None
    trainer: _Trainer = None
    outcomes: Annotated[
        list[Path] | None,
        Option("Take outcomes from what the trainer logged: a file, a folder or a glob; repeatable."),
    ] = None
    reward_column: Annotated[
        str | None, Option("Which number of a log is the reward, where there are several.", metavar="NAME")
    ] = None
    reference_outcomes: Annotated[
        Path | None, Option("dots: what the next round's references did: outcomes, or a rollout set.")
    ] = None


class DriveConfig(_Options):
    """The options of `gaincurate schedule run`."""

    run: _Run
    command: Annotated[
        list[str] | None,
        Option(
            "The trainer; {data} {round} {checkpoint} {outcomes} {output} are filled in. Default: the "
            "last one.",
            metavar="-- CMD ...",
            argument=True,
        ),
    ] = None
    timeout: Annotated[float | None, Field(ge=1.0), Option("Seconds for one round's training.")] = None
    trainer: _Trainer = None
    retry: Annotated[bool, Option("Train the newest round again, though its trainer ended well.")] = False
    dry_run: Annotated[bool, Option("Print the newest round's command, filled in, and do nothing.")] = False


class DoctorConfig(_Options):
    """The options of `gaincurate doctor`. `--config` is the trainer's: no file has these options."""

    command: Annotated[
        list[str] | None,
        Option("The trainer's command or its flags, over every file.", metavar="-- CMD ...", argument=True),
    ] = None
    trainer: Annotated[
        str | None,
        Option(f"Check this trainer's settings instead: {', '.join(with_part('rules'))}.", metavar="T"),
    ] = None
    config: Annotated[
        list[str] | None,
        Option(
            "Its .yaml, .json or .toml file, or a script with its command; - is YAML on standard input. "
            "Repeatable: later ones win.",
            metavar="F",
        ),
    ] = None
    mode: Annotated[
        Literal["segment", "live", "export"] | None,
        Option(
            "One process of the trainer for each round (segment, the default), one long one with the "
            "live adapter, or one exported file."
        ),
    ] = None
    run: Annotated[
        Path | None, Option("Compare sizes, lengths and tokens with this run too.", metavar="RUN")
    ] = None

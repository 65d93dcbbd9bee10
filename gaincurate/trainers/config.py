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
    Option(f"The trainer: {', '.join(with_part('layout'))}. Default: the last one given.", metavar="T"),
]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NextConfig(_Options):
    """The options of `gaincurate schedule next`."""

    run: _Run
    checkpoint: Annotated[
        Path | None,
        Option("The round's checkpoint, if a re-scoring is due; with --trainer, its output root."),
    ] = None
    trainer: _Trainer = None
    outcomes: Annotated[
        list[Path] | None, Option("Take outcomes from the trainer's logs: file, folder or glob; repeatable.")
    ] = None
    reward_column: Annotated[
        str | None, Option("The log's column with the reward, if several have numbers.", metavar="NAME")
    ] = None
    reference_outcomes: Annotated[
        Path | None, Option("dots: rollouts of the next round's references: outcomes, or a rollout set.")
    ] = None


class DriveConfig(_Options):
    """The options of `gaincurate schedule run`."""

    run: _Run
    command: Annotated[
        list[str] | None,
        Option(
            "The trainer's command; {data} {round} {checkpoint} {outcomes} {output} are filled in. Default: "
            "the last one.",
            metavar="-- CMD ...",
            argument=True,
        ),
    ] = None
    timeout: Annotated[float | None, Field(ge=1.0), Option("Seconds for one round's training.")] = None
    trainer: _Trainer = None
    retry: Annotated[bool, Option("Train the newest round again, although it succeeded.")] = False
    dry_run: Annotated[bool, Option("Only print the newest round's command with its values.")] = False


class DoctorConfig(_Options):
    """The options of `gaincurate doctor`. `--config` is the trainer's, so no file can set these options."""

    command: Annotated[
        list[str] | None,
        Option("The trainer's command or flags; they override files.", metavar="-- CMD ...", argument=True),
    ] = None
    trainer: Annotated[
        str | None, Option(f"Check this trainer's settings: {', '.join(with_part('rules'))}.", metavar="T")
    ] = None
    config: Annotated[
        list[str] | None,
        Option(
            "A .yaml, .json or .toml file, or a script; - is YAML on stdin. Repeatable; later files win.",
            metavar="F",
        ),
    ] = None
    mode: Annotated[
        Literal["segment", "live", "export"] | None,
        Option("segment (default): a process per round. live: one process. export: an exported file."),
    ] = None
    run: Annotated[
        Path | None, Option("Also compare sizes, prompt lengths and tokens with this run.", metavar="RUN")
    ] = None

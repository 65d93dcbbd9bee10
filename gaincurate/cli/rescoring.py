"""What the option --scoring of `gaincurate schedule` stands for; takes its text, scores nothing."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from gaincurate.cli import output
from gaincurate.cli.options import Command
from gaincurate.cli.score import score
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.schedule.run import Run

_SCORING = (
    "device", "dtype", "backend", "workers", "threads", "batch_tokens", "logits_memory", "shard_rows",
    "allow_pickle", "trust_remote_code",
)  # fmt: skip
"""Options of `gaincurate score` that --scoring takes: of the machine, and what it may run. The others say
which prompts are scored, how they are read and where the set goes, which re-scoring settles itself."""
_OF_MACHINE = ("device", "dtype", "backend", "workers", "threads")
# typer has no public name for it: what its own click, or before 0.26 the installed one, calls UsageError.
_UsageError: Any = typer.BadParameter.__bases__[0]


def scoring_options(text: str) -> tuple[list[str], dict[str, Any]]:
    """The words of --scoring and the options that `gaincurate score` will read in them, seen now: a run
    keeps them.

    Raises:
        InputError: an option that there is not, one that re-scoring settles itself, or a bad value.
    """
    from gaincurate.config import DEVICE

    asked = f"--scoring {text!r}"
    takes = ", ".join("--" + name.replace("_", "-") for name in _SCORING)
    command_line = typer.Typer(add_completion=False)
    command_line.command(cls=Command, add_help_option=False)(score)
    command: Any = typer.main.get_command(command_line)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{asked}: {str(error).lower()}.") from error
    try:
        _, _, given = command.make_parser(typer.Context(command)).parse_args(list(words))
        _refuse_others(asked, [option for option in given if option.param_type_name == "option"], takes)
        found = command.make_context("score", ["DATA", "--model", "M", "--out", "OUT", *words]).params
    except typer.BadParameter as error:
        raise InputError(f"{asked}: {_as_clause(error.format_message())}.") from error
    except _UsageError as error:
        raise InputError(f"{asked}: {_as_clause(error.message)}; it takes {takes}.") from error
    device, tokens = found["device"], found["batch_tokens"]
    if not DEVICE.fullmatch(device):
        raise InputError(f"{asked}: --device {device}: expected auto, cpu, cuda or cuda:N.")
    if tokens != "auto" and not (tokens.isdecimal() and int(tokens) >= 1):
        raise InputError(f"{asked}: --batch-tokens {tokens}: expected auto or a number from 1.")
    return words, {option.name: found[option.name] for option in given if option.name in _SCORING}


def _refuse_others(asked: str, options: list[Any], takes: str) -> None:
    for option in options:
        if option.name not in _SCORING:
            raise InputError(
                f"{asked}: {option.opts[0]} is settled by re-scoring itself, which goes by the first "
                f"scoring; it takes {takes}."
            )


def _as_clause(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(".")


def tell_of_machine(run: Run, scoring: Mapping[str, Any]) -> None:
    """Warn where this machine cannot score anew as asked; another one may be meant to, so it is no error."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        return
    import torch

    from gaincurate.config import MachineConfig
    from gaincurate.scoring.identity import resolve_machine
    from gaincurate_kernels import resolve_backend

    asked = {"dtype": run.scored.identity.get("dtype", "auto"), **scoring}
    of_machine = {name: asked[name] for name in _OF_MACHINE if asked.get(name) is not None}
    try:
        config = MachineConfig(**of_machine)
        machine = resolve_machine(config)
        try:
            # Of any hidden size: which one it is, the checkpoint will tell.
            resolve_backend(
                config.backend, device=machine.type, hidden=1, dtype=getattr(torch, machine.dtype)
            )
        except ValueError as error:
            raise InputError(f"--{error}.") from error
    except InputError as error:
        output.note(
            f"warning: re-scoring on this machine would fail: {error} A run keeps its --scoring: to drive it "
            "here, start another."
        )

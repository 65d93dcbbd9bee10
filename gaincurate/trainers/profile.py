"""What is known of one trainer, as one value: columns, launch settings, checkpoints and recipe.

The engines (export, checkpoints, recipes, doctor) ask a profile and know no trainer by name, so a
trainer is one folder beside this file. Facts are those of the version that `version` names.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaincurate.core.options import near
from gaincurate.errors import InputError
from gaincurate.trainers.columns import Own, Parts, ViewOptions
from gaincurate.trainers.names import TRAINERS as TRAINERS
from gaincurate.trainers.names import folder_of
from gaincurate.trainers.names import with_rules as with_rules

if TYPE_CHECKING:
    from gaincurate.trainers.view import View

Columns = dict[str, Own]
COMMAND = "gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}"
"""Drives every recipe, with the recipe saved as round.sh."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a trainer on a file.

    `form` says what `settings` are: "flags" (words of a command line), "yaml" or "python" (lines of text).
    `hints` are sentences about what no setting can change.
    """

    form: str
    settings: list[str]
    hints: list[str]

    @property
    def text(self) -> str:
        """The settings, ready to be pasted."""
        if self.form == "flags":
            return " ".join(map(_quoted, self.settings))
        return "\n".join(self.settings)


@dataclass(frozen=True, slots=True)
class Sharded:
    """Weights in a form of the trainer's own.

    Args:
        files: glob within the checkpoint; one match is enough.
        convert: command with `{checkpoint}` in it, which leaves its result where `Layout.weights` looks; None
            where there is none.
        apart: whether they lie in a folder of their own, as a series beside the Hugging Face weights.
    """

    files: str
    convert: str | None
    apart: bool = False

    def command(self, checkpoint: Path) -> str | None:
        """The converting command for a checkpoint, quoted for a shell."""
        if self.convert is None:
            return None
        words = shlex.split(self.convert)
        return shlex.join(word.replace("{checkpoint}", str(checkpoint)) for word in words)


@dataclass(frozen=True, slots=True)
class Layout:
    """How one trainer writes checkpoints; paths are relative to its output root or to the checkpoint.

    Args:
        version: what was read.
        folders: globs of checkpoint folders below the root.
        step: pattern of such a folder's name; group 1 is the step.
        marker: what tells that a checkpoint is complete, in words.
        unfinished: takes the checkpoint's folder and step, yields None or a sentence with the path of what is
            missing.
        weights: folders in the checkpoint for Hugging Face weights, the first with any counts.
        adapters: the same for adapters; one in a folder of its own comes before weights.
        sharded: other weights that are named.
        setting: what makes the trainer save Hugging Face weights, None where no setting does.
        tokenizer: a further folder in the checkpoint that has the tokenizer.
        any_name: its folders may have any name that ends in a number, so only those with files of a model
            count.
    """

    version: str
    folders: tuple[str, ...]
    step: str
    marker: str
    unfinished: Callable[[Path, int], str | None]
    weights: tuple[str, ...]
    setting: str | None
    adapters: tuple[str, ...] = ()
    sharded: tuple[Sharded, ...] = ()
    tokenizer: str | None = None
    any_name: bool = False
    trainer: str = ""  # set by its profile

    @property
    def save_settings(self) -> str:
        """`setting` for the end of a sentence: in brackets, or nothing."""
        return f" ({self.setting})" if self.setting else ""


@dataclass(frozen=True)
class Recipe:
    """Segment mode: one round as one process of the trainer.

    `body` is the script after its head. `optimizer`, `rate` and `reference` say what becomes of the
    optimizer's state, the learning rate's schedule and the KL term's reference between rounds, `outcomes`
    who appends them, `ran` whether the recipe was run, or read only.
    """

    version: str
    body: str
    optimizer: str
    rate: str
    reference: str
    outcomes: str
    ran: bool = False
    trainer: str = ""  # set by its profile

    @property
    def script(self) -> str:
        """The whole of round.sh."""
        comments = [
            f"# One round of {self.trainer} {self.version}; "
            f"{'run on a CPU' if self.ran else 'read, not run'}.",
            f"#   {COMMAND}",
            f"#   gaincurate doctor --trainer {self.trainer} --config round.sh --run run",
            f"# Optimizer: {self.optimizer}.",
            f"# Learning rate: {self.rate}.",
            f"# KL reference: {self.reference}.",
            f"# Outcomes: {self.outcomes}.",
        ]
        head = ["#!/bin/bash", *comments, "set -eu", "data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5"]
        head += [
            'rm -rf "${output:?}"/*   # of an attempt that was killed: a round begins from its beginning'
        ]
        head += ["run=${data%/rounds/*}   # the run's folder"] if '"$run"' in self.body else []
        return "\n".join(head) + "\n" + self.body

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "command": COMMAND, "script": self.script}


OPTIMIZER_LOST = "begins anew every round"
CONSTANT_RATE = "constant; any other schedule would be one process long, warm-up included"
NO_REFERENCE = (
    "none (the term is off); with it, the model that the round begins with, which moves every round"
)


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a trainer's prompts have beside the messages of a row and the model's chat template.

    Args:
        arguments: its settings for arguments of the chat template, and the argument's name; "" for a mapping
            or the JSON text of one.
        row_tools: the setting that names the column with a row's tools; "" where it renders none.
        adds: its settings that add text which is not known here, and what they add.
        code: whose code renders the prompts, where that is not the trainer's.
        media: columns of pictures and the like that it adds to a prompt.
        nulls: "all" where it renders a null for each key that another row has, whatever the file; or its
            setting for the file, where it does so for Parquet alone.
    """

    arguments: Mapping[str, str] = field(default_factory=dict)
    row_tools: str = ""
    adds: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    media: tuple[str, ...] = ()
    nulls: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """One trainer.

    Args:
        name: as on the command line; its folder has `_` for `-`.
        version: what was read.
        columns: the view that it reads, by column name.
        launch: the settings that make it read an exported file as it is.
        rendering: what its prompts have beside messages.
        reserved: column names to which it gives a meaning of its own or which it overwrites.
        suffixes: the files that it reads and that are written here.
        judge: the column by which it picks a reward function, None where it has none.
        judge_needed: it fails without one.
        group_size: the column with a prompt's number of rollouts, None where all prompts have as many.
        id_in_answer: the answer is the one thing that reaches its reward function, so the id goes there.
        answer_needed: it cannot read rows without an answer.
        env_class: its rows may name an environment (`--env-class`).
        system_file: it takes the system message from a file beside the data.
        scores_refused: why it must not see scores as columns.
        refused_in_path: characters that it would take apart in a path.
        reads_folder: it reads every file of the folder.
        layout: its checkpoints, None where they are not known.
        recipe: one round as one process.
        no_recipe: why there is none.
    """

    name: str
    version: str
    columns: Callable[[Parts, ViewOptions], Columns]
    launch: Callable[[Path, View], Launch]
    rendering: Rendering = Rendering()
    reserved: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = (".parquet", ".jsonl")
    judge: str | None = None
    judge_needed: bool = False
    group_size: str | None = None
    id_in_answer: bool = False
    answer_needed: bool = False
    env_class: bool = False
    system_file: bool = False
    scores_refused: str | None = None
    refused_in_path: str = ""
    reads_folder: bool = False
    layout: Layout | None = None
    recipe: Recipe | None = None
    no_recipe: str | None = None

    def __post_init__(self) -> None:
        for part in filter(None, (self.layout, self.recipe)):
            object.__setattr__(part, "trainer", self.name)


@cache
def profiles() -> dict[str, Profile]:
    """Every trainer's profile by name, in the order of `TRAINERS`."""
    return {name: importlib.import_module(f"{_folder(name)}.profile").PROFILE for name in TRAINERS}


def profile_of(name: str) -> Profile:
    """A trainer's profile.

    Raises:
        InputError: no such trainer; lists those there are.
    """
    if name not in TRAINERS:
        raise InputError(
            f"--trainer {name}: there is no such trainer here; there are {', '.join(TRAINERS)}"
            f"{near(name, TRAINERS)}."
        )
    return profiles()[name]


def rules_module(name: str) -> Any:
    """A trainer's `rules.py`, imported."""
    return importlib.import_module(f"{_folder(name)}.rules")


def layouts() -> dict[str, Layout]:
    """The layouts of checkpoints that are known, by trainer."""
    return {name: profile.layout for name, profile in profiles().items() if profile.layout}


def layout_of(trainer: str) -> Layout:
    """How a trainer writes checkpoints.

    Raises:
        InputError: it is not known.
    """
    choices = layouts()
    if trainer in choices:
        return choices[trainer]
    raise InputError(f"--trainer {trainer}: it must be one of {', '.join(choices)}{near(trainer, choices)}.")


def recipes() -> dict[str, Recipe]:
    """The recipes by trainer."""
    return {name: profile.recipe for name, profile in profiles().items() if profile.recipe}


def recipe_of(trainer: str) -> Recipe:
    """A trainer's recipe.

    Raises:
        InputError: there is none.
    """
    choices = recipes()
    if trainer in choices:
        return choices[trainer]
    if trainer in TRAINERS and (why := profiles()[trainer].no_recipe):
        raise InputError(f"there is no recipe for {trainer}: {why}.")
    hint = near(trainer, choices)
    raise InputError(f"there is no recipe for {trainer}; there are for {', '.join(choices)}{hint}.")


def _folder(name: str) -> str:
    return f"gaincurate.trainers.{folder_of(name)}"


# What profiles are written with.

SHUFFLES = (
    "{} shuffles its prompts and has no switch for it: which rows it trains on holds, their order does not"
)


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set of column names."""
    return frozenset(text.split())


def load_line(path: Path) -> str:
    """The line of a Python script that loads an exported file."""
    form = "parquet" if path.suffix == ".parquet" else "json"
    return f'train_dataset = datasets.load_dataset("{form}", data_files={str(path)!r}, split="train")'


def hydra_value(path: Path, *, quote: bool = False) -> str:
    """A path as a value of Hydra's override grammar."""
    if not quote and re.fullmatch(r"[\w./+@:%?|-]+", str(path)):
        return str(path)
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def system_file(path: Path) -> Path:
    """Where the system message goes of an export whose trainer takes it from a file."""
    return path.with_name(f"{path.stem}.system.txt")


def _quoted(word: str) -> str:
    """A word for a shell; one with single quotes alone is easier to read in double ones."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)

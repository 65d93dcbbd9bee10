"""One trainer's facts as one value: columns, settings and rules on them, checkpoints.

The engines (export, checkpoints, doctor) read a profile and name no trainer, so a trainer is one folder
beside this file. Facts are those of the version that `version` names.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gaincurate.core.foreign import read_text
from gaincurate.core.options import near
from gaincurate.errors import InputError
from gaincurate.trainers.columns import ExportColumn, ExportView
from gaincurate.trainers.doctor.findings import Rule, Style
from gaincurate.trainers.names import TRAINERS as TRAINERS
from gaincurate.trainers.names import folder_of, with_part

COMMAND = "gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}"
"""Runs every recipe, saved as round.sh."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a trainer on a file."""

    form: str  # of the settings: "flags" (words of a command line), "yaml" or "python" (lines of text)
    settings: list[str]
    hints: list[str]  # sentences about what no setting can change

    @property
    def text(self) -> str:
        """The settings, ready to be pasted."""
        return " ".join(map(_quoted, self.settings)) if self.form == "flags" else "\n".join(self.settings)


def _quoted(word: str) -> str:
    """A word for a shell; one with single quotes alone is easier to read in double ones."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


@dataclass(frozen=True, slots=True)
class Sharded:
    """Weights in a form of the trainer's own."""

    files: str  # glob within the checkpoint; one match is enough
    convert: str | None  # command with `{checkpoint}` in it, whose result is where `Layout.weights` looks
    apart: bool = False  # they lie in a folder of their own, as a series beside the Hugging Face weights


@dataclass(frozen=True, slots=True)
class Layout:
    """How one trainer writes checkpoints; paths are relative to its output root or to the checkpoint.

    `unfinished` takes the checkpoint's folder and step, and yields None or a sentence with the path of what
    is missing.
    """

    folders: tuple[str, ...]  # globs of checkpoint folders below the root
    step: str  # pattern of such a folder's name; group 1 is the step
    unfinished: Callable[[Path, int], str | None]
    setting: str  # what makes the trainer save Hugging Face weights
    weights: tuple[str, ...] = (".",)  # folders in the checkpoint for these; the first with any counts
    adapters: tuple[str, ...] = (".",)  # for adapters; one in a folder of its own comes before weights
    sharded: tuple[Sharded, ...] = ()  # other weights that are named
    tokenizer: str | None = None  # a further folder in the checkpoint that has the tokenizer
    any_name: bool = False  # of folders that end in a number, so only those with files of a model count


@dataclass(frozen=True, slots=True)
class Rendering:
    """The parts of a trainer's prompts besides the messages of a row and the model's chat template.

    `nulls` is "all" where it renders a null for each key that another row has, whatever the file; or its
    setting for the file, where it does so for Parquet alone.
    """

    arguments: str = ""  # its setting for arguments of the chat template, a mapping or the JSON text of one
    argument: str = ""  # the one argument that the setting is the value of, in place of a mapping
    row_tools: str = ""  # the setting that names the column with a row's tools; "" where it renders none
    adds: tuple[str, ...] = ()  # its settings that add text which is not known here
    code: str = ""  # whose code renders the prompts, where that is not the trainer's
    media: tuple[str, ...] = ()  # columns of pictures and the like that it adds to a prompt
    nulls: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """One trainer.

    `columns` takes a view and yields the columns that the trainer reads, by name. `launch` takes a file and
    its view, and yields the settings that make the trainer read it as it is.
    """

    name: str  # as on the command line; its folder has `_` for `-`
    version: str  # what was read
    columns: Callable[[ExportView], dict[str, ExportColumn]]
    launch: Callable[[Path, ExportView], Launch]
    rendering: Rendering = Rendering()
    reserved: frozenset[str] = frozenset()  # columns that have a meaning of their own or are overwritten
    suffixes: tuple[str, ...] = (".parquet", ".jsonl")  # the files that it reads and that are written here
    judge: str | None = None  # the column by which it picks a reward function
    judge_needed: bool = False  # it fails without one
    group_size: str | None = None  # the column with a prompt's rollouts, None where all have as many
    id_in_answer: bool = False  # nothing but the answer reaches its reward function, so the id goes there
    answer_needed: bool = False  # it cannot read rows without an answer
    env_class: bool = False  # its rows may name an environment (`--env-class`)
    system_file: bool = False  # it takes the system message from a file beside the data
    scores_refused: str = ""  # why it must not see scores as columns
    refused_in_path: str = ""  # characters that it would take apart in a path
    reads_folder: bool = False  # it reads every file of the folder
    layout: Layout | None = None  # its checkpoints, None where they are not known
    rules: tuple[Rule, ...] = ()  # on its settings, in the order in which their findings are listed
    launches: tuple[str, ...] = ()  # words that mark a launch line of it
    style: Style = ""  # of a setting in its launch line
    live: bool = False  # whether it can be steered in one long process
    whole: Mapping[str, Any] | None = None  # in place of its defaults for a file with all sections of them


@cache
def profiles() -> dict[str, Profile]:
    """Every trainer's profile by name, in the order of `TRAINERS`."""
    return {
        name: importlib.import_module(f"gaincurate.trainers.{folder_of(name)}.profile").PROFILE
        for name in TRAINERS
    }


def profile_of(name: str) -> Profile:
    """A trainer's profile; raises InputError where there is no such trainer."""
    return profiles()[one_of("--trainer", name, TRAINERS)]


def one_of(option: str, name: str, names: Collection[str]) -> str:
    """A name that is among others; else an InputError with all names, and those that are near it."""
    if name in names:
        return name
    raise InputError(f"{option} {name}: it must be one of {', '.join(names)}{near(name, names)}.")


def layouts() -> dict[str, Layout]:
    """The layouts of checkpoints that are known, by trainer."""
    return {name: profile.layout for name, profile in profiles().items() if profile.layout}


def layout_of(trainer: str) -> Layout:
    """How a trainer writes checkpoints; raises InputError where that is not known."""
    choices = layouts()
    return choices[one_of("--trainer", trainer, choices)]


def recipe_of(trainer: str) -> str:
    """The script that trains a round as one process: the `recipe.sh` of a trainer's folder, or InputError."""
    folder = folder_of(one_of("TRAINER", trainer, with_part("recipe")))
    return read_text(Path(__file__).parent / folder / "recipe.sh")


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
    """The file for the system message, for a trainer that takes it from one."""
    return path.with_name(f"{path.stem}.system.txt")

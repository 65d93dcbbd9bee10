"""A trainer's profile: its columns, its settings and the rules on them, its checkpoints.

Export, checkpoints and doctor read a profile and name no trainer, so a trainer is one folder beside this
file. A profile holds for the trainer's version that `version` names.
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
"""The command that runs a recipe, for every trainer, once it is saved as round.sh."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a trainer on a file."""

    form: str  # of the settings: "flags" (words of a command line), "yaml" or "python" (lines of text)
    settings: list[str]
    hints: list[str]  # sentences for the user on what these settings do not do

    @property
    def text(self) -> str:
        """The settings as text to copy."""
        return " ".join(map(_quoted, self.settings)) if self.form == "flags" else "\n".join(self.settings)


def _quoted(word: str) -> str:
    """A word quoted for a shell; double quotes are more readable for a word with single quotes."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


@dataclass(frozen=True, slots=True)
class Sharded:
    """Weights in the trainer's own format."""

    files: str  # glob within the checkpoint; one match is enough
    convert: str | None  # a command with `{checkpoint}` that writes Hugging Face weights to `Layout.weights`
    apart: bool = False  # whether the trainer writes them besides Hugging Face weights, for resuming only


@dataclass(frozen=True, slots=True)
class Layout:
    """How one trainer writes checkpoints; paths are relative to its output root or to the checkpoint.

    `unfinished` takes the checkpoint's folder and step, and returns None if it is complete, or else a
    sentence with the path of the missing file.
    """

    folders: tuple[str, ...]  # globs of checkpoint folders below the root
    step: str  # regular expression for the name of such a folder; group 1 is the step
    unfinished: Callable[[Path, int], str | None]
    setting: str  # the settings with which the trainer saves Hugging Face weights
    weights: tuple[str, ...] = (".",)  # folders of these weights in the checkpoint; the first with files
    adapters: tuple[str, ...] = (".",)  # folders of adapters; one in a separate folder comes before weights
    sharded: tuple[Sharded, ...] = ()  # weights in other formats
    tokenizer: str | None = None  # a separate folder in the checkpoint with the tokenizer
    any_name: bool = False  # whether any folder that ends in a number and has a model's files is a checkpoint


@dataclass(frozen=True, slots=True)
class Rendering:
    """The parts of a trainer's prompts besides the messages of a row and the model's chat template.

    `nulls` is "all" if the trainer renders null for each key that only other rows have, from any file. It is
    the setting for the file if the trainer does so only for Parquet.
    """

    arguments: str = ""  # the setting for the chat template's arguments: a mapping, or one as JSON text
    argument: str = ""  # the only argument, if that setting is its value instead of a mapping
    row_tools: str = ""  # the setting that names the column with a row's tools; "" if it renders none
    adds: tuple[str, ...] = ()  # the settings that add text that is not known here
    code: str = ""  # the code that renders the prompts, if it is not the trainer's
    media: tuple[str, ...] = ()  # columns with media, such as images, that it adds to a prompt
    nulls: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """One trainer.

    `columns` takes a view and returns the columns that the trainer reads, by name. `launch` takes a file and
    its view, and returns the settings with which the trainer reads the file unchanged.
    """

    name: str  # on the command line; its folder has `_` for `-`
    version: str  # the version whose source was read
    columns: Callable[[ExportView], dict[str, ExportColumn]]
    launch: Callable[[Path, ExportView], Launch]
    rendering: Rendering = Rendering()
    reserved: frozenset[str] = frozenset()  # columns that it overwrites or uses for another purpose
    suffixes: tuple[str, ...] = (".parquet", ".jsonl")  # of the files that it can read
    judge: str | None = None  # the column that selects a row's reward function
    judge_needed: bool = False  # it fails without that column
    group_size: str | None = None  # the column with a prompt's number of rollouts; None if it has no such
    id_in_answer: bool = False  # its reward function gets only the answer, so the id is put into it
    answer_needed: bool = False  # it cannot read rows without an answer
    env_class: bool = False  # its rows may name an environment (`--env-class`)
    system_file: bool = False  # it reads the system message from a file beside the data
    scores_refused: str = ""  # why it must not see scores as columns
    refused_in_path: str = ""  # characters at which it would split a path
    reads_folder: bool = False  # it reads every file of the folder
    layout: Layout | None = None  # its checkpoints; None if they are not known
    rules: tuple[Rule, ...] = ()  # on its settings, in the order of their findings
    launches: tuple[str, ...] = ()  # words by which its launch line is recognized
    style: Style = ""  # of settings in its launch line
    live: bool = False  # whether it has a live adapter
    whole: Mapping[str, Any] | None = None  # its defaults for a file that has all sections of its settings


@cache
def profiles() -> dict[str, Profile]:
    """Every trainer's profile by name, in the order of `TRAINERS`."""
    return {
        name: importlib.import_module(f"gaincurate.trainers.{folder_of(name)}.profile").PROFILE
        for name in TRAINERS
    }


def profile_of(name: str) -> Profile:
    """A trainer's profile; raises InputError for an unknown name."""
    return profiles()[one_of("--trainer", name, TRAINERS)]


def one_of(option: str, name: str, names: Collection[str]) -> str:
    """Return `name` if it is in `names`; else raise an InputError with all names and the closest ones."""
    if name in names:
        return name
    raise InputError(f"{option} {name}: it must be one of {', '.join(names)}{near(name, names)}.")


def layout_of(trainer: str) -> Layout:
    """How a trainer writes checkpoints; raises InputError if that is not known."""
    layouts = {name: profile.layout for name, profile in profiles().items() if profile.layout}
    return layouts[one_of("--trainer", trainer, layouts)]


def recipe_of(trainer: str) -> str:
    """A trainer's `recipe.sh`, which trains a round as one process; raises InputError if it has none."""
    folder = folder_of(one_of("TRAINER", trainer, with_part("recipe")))
    return read_text(Path(__file__).parent / folder / "recipe.sh")


# Parts of profiles.

SHUFFLES = (
    "{} shuffles its prompts and has no switch for it: which rows it trains on holds, their order does not"
)


def words(text: str) -> frozenset[str]:
    """The words of a text as a set, for names of columns."""
    return frozenset(text.split())


def load_line(path: Path) -> str:
    """The line of a Python script that loads an exported file."""
    form = "parquet" if path.suffix == ".parquet" else "json"
    return f'train_dataset = datasets.load_dataset("{form}", data_files={str(path)!r}, split="train")'


def hydra_value(path: Path, *, quote: bool = False) -> str:
    """A path as a value in Hydra's override grammar, quoted if necessary or if `quote` is set."""
    if not quote and re.fullmatch(r"[\w./+@:%?|-]+", str(path)):
        return str(path)
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def system_file(path: Path) -> Path:
    """The file beside an export that has the system message, for a trainer that reads it from a file."""
    return path.with_name(f"{path.stem}.system.txt")

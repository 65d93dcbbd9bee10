"""One trainer's facts as one value (columns, settings, checkpoints), and its view of a scored set.

The engines (export, checkpoints, doctor) read a profile and name no trainer, so a trainer is one folder
beside this file. Facts are those of the version that `version` names.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from gaincurate.core.artifact import Json
from gaincurate.core.foreign import read_text
from gaincurate.core.options import near
from gaincurate.core.prompts import chats_of, column_values, without_nulls
from gaincurate.core.schema import ID, PREFIX
from gaincurate.errors import InputError
from gaincurate.trainers.columns import Own, Parts, Rows, ViewOptions, column_type, has_nulls
from gaincurate.trainers.names import TRAINERS as TRAINERS
from gaincurate.trainers.names import folder_of, with_part

Columns = dict[str, Own]
COMMAND = "gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}"
"""Runs every recipe, saved as round.sh."""


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


@dataclass(frozen=True, slots=True)
class Rendering:
    """The parts of a trainer's prompts besides the messages of a row and the model's chat template.

    Args:
        arguments: its setting for arguments of the chat template, a mapping or the JSON text of one.
        argument: the one argument that the setting is the value of, in place of a mapping.
        row_tools: the setting that names the column with a row's tools; "" where it renders none.
        adds: its settings that add text which is not known here.
        code: whose code renders the prompts, where that is not the trainer's.
        media: columns of pictures and the like that it adds to a prompt.
        nulls: "all" where it renders a null for each key that another row has, whatever the file; or its
            setting for the file, where it does so for Parquet alone.
    """

    arguments: str = ""
    argument: str = ""
    row_tools: str = ""
    adds: tuple[str, ...] = ()
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

    def __post_init__(self) -> None:
        if self.layout is not None:
            object.__setattr__(self.layout, "trainer", self.name)


@cache
def profiles() -> dict[str, Profile]:
    """Every trainer's profile by name, in the order of `TRAINERS`."""
    return {
        name: importlib.import_module(f"gaincurate.trainers.{folder_of(name)}.profile").PROFILE
        for name in TRAINERS
    }


def profile_of(name: str) -> Profile:
    """A trainer's profile.

    Raises:
        InputError: there is no such trainer.
    """
    return profiles()[one_of("--trainer", name, TRAINERS)]


def one_of(option: str, name: str, names: Collection[str]) -> str:
    """A name that is among others.

    Raises:
        InputError: it is not; with all names, and those that are near it.
    """
    if name in names:
        return name
    raise InputError(f"{option} {name}: it must be one of {', '.join(names)}{near(name, names)}.")


def layouts() -> dict[str, Layout]:
    """The layouts of checkpoints that are known, by trainer."""
    return {name: profile.layout for name, profile in profiles().items() if profile.layout}


def layout_of(trainer: str) -> Layout:
    """How a trainer writes checkpoints.

    Raises:
        InputError: it is not known.
    """
    choices = layouts()
    return choices[one_of("--trainer", trainer, choices)]


def recipe_of(trainer: str) -> str:
    """The script that trains one round as one process of a trainer: the `recipe.sh` of its folder.

    Raises:
        InputError: there is none.
    """
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


def _quoted(word: str) -> str:
    """A word for a shell; one with single quotes alone is easier to read in double ones."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


class View:
    """One trainer's columns for one scored set.

    Args:
        trainer: its name, of `TRAINERS`.
        schema: the scored set's.
        identity: the scored set's, which says where prompt and answer are.
        chat: the type of its message lists (`chat_type`).
        options: what was asked for.
        sizes: the prompts' group sizes, in the order of the rows, for a trainer that reads them.

    Raises:
        InputError: no such trainer or column, or the trainer cannot do without something that is not there.
    """

    def __init__(
        self,
        trainer: str,
        schema: pa.Schema,
        identity: Json,
        chat: pa.DataType,
        options: ViewOptions,
        sizes: Sequence[int] | None = None,
    ) -> None:
        self.trainer, self.profile, self.options = trainer, profile_of(trainer), options
        self._identity = identity
        source = identity["source"]
        answer = options.answer_column or source.get("answer_column")
        if answer is not None:
            column_type(schema, answer)
        with_id = self.profile.id_in_answer if options.id_in_answer is None else options.id_in_answer
        tools = source.get("tools_column")
        self.parts = Parts(trainer, schema, source["prompt_column"], answer, chat, with_id, tools)
        _check(self.profile, self.parts, options)
        self.own = self.profile.columns(self.parts, options) | self._judge() | {ID: self.parts.ids()}
        if sizes is not None and self.profile.group_size is not None:
            of_rows = Own(pa.int64(), lambda rows: sizes[rows.first : rows.first + len(rows.ids)])
            self.own[self.profile.group_size] = of_rows
        self.notes: list[str] = []
        """Notes for the user: columns with another name, and numbers that became text."""
        self.open_ended = 0
        """Prompts so far that end with the assistant's words."""
        self.nulls = False
        """Whether messages or tools so far have nulls that the trainer renders and scoring did not."""
        self.without_answer = 0
        """Rows so far whose answer is null where the trainer finds one."""
        # Where there is no column, --id-in-answer asks for the id alone: nothing is missing.
        null_unasked = self.parts.writes_answers and options.id_in_answer is not True
        self._counts_answers = answer is not None or null_unasked
        self._copied = self._source_columns(schema)
        if self.parts.numbers_as_text:
            self.notes.append(
                f"the numbers of column {answer!r} are written as text, because scorers compare text"
            )
        fields = [pa.field(name, column.type) for name, column in self.own.items()]
        fields += [pa.field(name, schema.field(old).type) for name, old in self._copied.items()]
        self.schema = pa.schema(fields)

    def table(self, rows: pa.Table, first: int) -> pa.Table:
        """The view of some rows for a Parquet file, where every struct has the keys of all others.

        Args:
            rows: of the scored set.
            first: how many rows of the file came before them.

        Raises:
            InputError: a prompt that this trainer cannot read.
            OutputError: a row's prompt cannot be read, so the set is not what its identity says.
        """
        batch = self._batch(rows, first)
        columns = [_array(column, batch) for column in self.own.values()]
        self.nulls = self.nulls or (self.profile.rendering.nulls != "" and self._has_nulls(batch))
        columns += [rows.column(old) for old in self._copied.values()]
        return pa.table(columns, schema=self.schema)

    def _has_nulls(self, batch: Rows) -> bool:
        """Whether Arrow adds nulls inside the fields of messages, or inside tools."""
        own = [
            column for name, column in self.own.items() if column.type == self.parts.chat or name == "tools"
        ]
        return any(has_nulls(_array(column, batch).to_pylist()) for column in own)

    def lines(self, rows: pa.Table, first: int) -> Iterator[dict[str, Any]]:
        """The same for lines of JSON: structs, messages and tools have the keys of their own row alone."""
        batch = self._batch(rows, first)
        self.nulls = self.nulls or (self.profile.rendering.nulls == "all" and self._has_nulls(batch))
        columns: list[Iterable[Any]] = []
        for column in self.own.values():
            values = column.values(batch)
            columns.append(
                without_nulls(values.to_pylist()) if isinstance(values, pa.ChunkedArray) else values
            )
        columns += [without_nulls(rows.column(old).to_pylist()) for old in self._copied.values()]
        return (dict(zip(self.schema.names, values, strict=True)) for values in zip(*columns, strict=True))

    def differences(self) -> Iterator[str]:
        """How the trainer's prompts differ from the scored ones, and settings that they need."""
        trainer, rendering, tools = self.trainer, self.profile.rendering, self.parts.tools
        if tools and not rendering.row_tools:
            unknown = f"whether {rendering.code} renders them is not known here"
            yield (
                f"warning: prompts were scored with the tools of column {tools!r}; "
                + (unknown if rendering.code else f"{trainer} renders no tools of a row")
                + ". `gaincurate score --tools-column none` scores without them"
            )
        if arguments := self._identity.get("segmentation", {}).get("template_kwargs"):
            keys = rendering.arguments or rendering.code or "nothing"
            scored = f"prompts were scored with the template arguments {json.dumps(arguments)}"
            yield f"{scored}; {trainer} takes them from {keys}"
        if media := [name for name in rendering.media if name in self.schema.names]:
            yield f"warning: {trainer} adds {media[0]!r} to the prompts; scores are of the text alone"
        if self.nulls:
            lines = "give --out a name that ends in .jsonl"
            yield (
                f"warning: tool calls or tools have unlike keys; {trainer} renders null for each key that a "
                "row lacks, which was not scored; "
                + ("store them as JSON text" if rendering.nulls == "all" else lines)
            )

    def _batch(self, rows: pa.Table, first: int) -> Rows:
        answer = self.parts.answer
        answers = without_nulls(column_values(rows, answer)) if answer else [None] * rows.num_rows
        chats = chats_of(rows, self._identity, bare=self.options.bare)
        messages, tools = [chat.messages for chat in chats], [chat.tools for chat in chats]
        self.open_ended += sum(turns[-1]["role"] == "assistant" for turns in messages)
        if self._counts_answers:
            self.without_answer += sum(value is None for value in answers)
        return Rows(rows, messages, tools, answers, first)

    def _judge(self) -> Columns:
        """The column by which the trainer picks a reward function."""
        name, data_source = self.profile.judge, self.options.data_source
        if name is None:
            return {}
        if data_source is not None:
            return {name: self.parts.same(data_source)}
        return {name: self.parts.column(name)} if name in self.parts.schema.names else {}

    def _source_columns(self, schema: pa.Schema) -> dict[str, str]:
        """The source columns that go along: the name in the file to the name in the set."""
        scores = [n for n in schema.names if n.startswith(PREFIX) and n != ID and self.options.with_scores]
        copied: dict[str, str] = {}
        names = [name for name in schema.names if not name.startswith(PREFIX)]
        for name in names:
            column = self.own.get(name)
            if column is not None and column.stands_for == name:
                continue
            new = name if column is None and name not in self.profile.reserved else f"source_{name}"
            if new != name:
                if new in names or new in self.own:
                    raise InputError(
                        f"{self.trainer} gives {name!r} a meaning of its own, and the set has both that "
                        f"column and {new!r}; rename one of them in the data.",
                        column=name,
                    )
                self.notes.append(f"column {name!r} is written as {new!r}: {self.trainer} needs that name")
            copied[new] = name
        return copied | {name: name for name in scores}


def _array(column: Own, batch: Rows) -> pa.Array | pa.ChunkedArray:
    values = column.values(batch)
    return values if isinstance(values, pa.ChunkedArray) else pa.array(values, column.type)


def _check(trainer: Profile, parts: Parts, options: ViewOptions) -> None:
    """Refuse what a trainer cannot do without, and options that mean nothing to it."""
    columns = ", ".join(name for name in parts.schema.names if not name.startswith(PREFIX))
    if trainer.answer_needed and not parts.has_answer:
        raise InputError(
            f"{trainer.name} cannot read rows without an answer, and this set names no answer column. Give "
            f"--answer-column, of {columns}; or --id-in-answer, where a reward function of yours needs only "
            "the id."
        )
    if options.data_source is not None and trainer.judge is None:
        raise InputError(f"--data-source {options.data_source}: {trainer.name} has nothing of that kind.")
    if trainer.judge_needed and options.data_source is None and trainer.judge not in parts.schema.names:
        raise InputError(
            f"{trainer.name} picks a row's reward function by the column {trainer.judge!r}, and the set has "
            "none. Give --data-source NAME: a name that it knows, or one for a reward function of your own."
        )
    if options.env_class is not None and not trainer.env_class:
        raise InputError(f"--env-class {options.env_class}: {trainer.name} has nothing of that kind.")
    if options.with_scores and trainer.scores_refused:
        raise InputError(f"--with-scores: {trainer.scores_refused}. Leave it out.")

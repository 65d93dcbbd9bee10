"""One trainer's view of a scored set: its columns, and how its prompts differ from the scored ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from gaincurate.core.artifact import Json
from gaincurate.core.prompts import chats_of, column_values, without_nulls
from gaincurate.core.schema import ID, PREFIX
from gaincurate.errors import InputError
from gaincurate.trainers.columns import Own, Parts, Rows, ViewOptions, column_type, has_nulls
from gaincurate.trainers.profile import Columns, Profile, profile_of, profiles


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
        """What a person should know: which columns got another name, and numbers that became text."""
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
            keys = " or ".join(rendering.arguments) or rendering.code or "nothing"
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
            f"{trainer.name} picks a row's reward function by the column {trainer.judge!r}, and the "
            "set has none. "
            "Give --data-source NAME: a name that it knows, or one of your own for a reward function of "
            "your own."
        )
    if options.env_class is not None and not trainer.env_class:
        with_environments = [name for name, profile in profiles().items() if profile.env_class]
        raise InputError(
            f"--env-class {options.env_class} is for {', '.join(with_environments)}; {trainer.name} "
            "has nothing of "
            "that kind."
        )
    if options.with_scores and trainer.scores_refused:
        raise InputError(f"--with-scores: {trainer.scores_refused}. Leave it out.")

"""One trainer's view of a scored set. All types are known before the first row, so that batches agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gaincurate.core.artifact import Json
from gaincurate.core.options import near
from gaincurate.core.prompts import (
    Columns,
    Message,
    Tool,
    chats_of,
    column_values,
    message_array,
    prompts_of,
    without_nulls,
)
from gaincurate.core.schema import ID, PREFIX, object_type
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.trainers.profile import Profile


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """The options of `gaincurate export`, by the same names; `id_in_answer` None is the trainer's default."""

    bare: bool = False
    with_scores: bool = False
    answer_column: str | None = None
    id_in_answer: bool | None = None
    data_source: str | None = None
    env_class: str | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of a set's rows: the table, and the rows' ids, messages, tools and answers."""

    table: pa.Table
    ids: list[str]
    messages: list[list[Message]]
    tools: list[list[Tool] | None]
    answers: list[Any]
    first: int  # the first row's place in the exported file, from 0


@dataclass(frozen=True, slots=True)
class ExportColumn:
    """A column of a view: its type, a function that makes its values, and the source column it replaces."""

    type: pa.DataType
    values: Callable[[Rows], Any]
    replaces: str | None = None

    def array(self, rows: Rows) -> pa.Array | pa.ChunkedArray:
        """The values of some rows as an Arrow array."""
        values = self.values(rows)
        return values if isinstance(values, pa.ChunkedArray) else pa.array(values, self.type)


class ExportView:
    """One trainer's columns for one scored set, and the methods by which its profile makes them.

    `sizes` are the prompts' group sizes in the order of the rows, for a trainer that reads them. Raises
    InputError if a named column does not exist, or the set lacks something that the trainer needs.
    """

    def __init__(
        self, profile: Profile, scored: ScoredSet, options: ViewOptions, sizes: Sequence[int] | None = None
    ) -> None:
        source = scored.identity["source"]
        self.profile, self.options, self.source = profile, options, scored.schema
        self._identity, self._prompt, self._folder = scored.identity, source["prompt_column"], scored.folder
        self._sizes = sizes
        self._own_columns = ", ".join(name for name in self.source.names if not name.startswith(PREFIX))
        self._chat = chat_type(scored, bare=options.bare)
        self.tools: str | None = source.get("tools_column")
        self.answer: str | None = options.answer_column or source.get("answer_column")
        answer_type = pa.string() if self.answer is None else column_type(self.source, self.answer)
        self._answer_type = object_type(answer_type)
        self.id_in_answer = profile.id_in_answer if options.id_in_answer is None else options.id_in_answer
        self.system: str | None = None  # the system message of all `question`s, once rows were read
        self.rows = 0  # rows that were read so far
        self._notes: list[str] = []  # for the user: renamed columns, numbers that became text
        self._open_ended = 0  # prompts that end with the assistant's words
        self._nulls = False  # whether the trainer renders nulls that were not scored
        self._without_answer = 0  # rows whose answer is null
        self._has_questions = self._writes_answers = self._numbers_as_text = False
        self._check()
        self.columns = profile.columns(self) | self.same(profile.judge, options.data_source)
        self.columns[ID] = self.ids()
        if sizes is not None and profile.group_size is not None:
            of_rows = ExportColumn(pa.int64(), lambda rows: sizes[rows.first : rows.first + len(rows.ids)])
            self.columns[profile.group_size] = of_rows
        # Without an answer column, --id-in-answer writes only the id, so no answer is missing.
        self._counts_answers = bool(self.answer) or (self._writes_answers and not options.id_in_answer)
        self._copied = self._source_columns()
        if self._numbers_as_text:
            self._notes.append(
                f"the numbers of column {self.answer!r} are written as text, because scorers compare text"
            )
        fields = [pa.field(name, column.type) for name, column in self.columns.items()]
        fields += [pa.field(name, self.source.field(old).type) for name, old in self._copied.items()]
        self.schema = pa.schema(fields)

    def table(self, table: pa.Table) -> pa.Table:
        """The view of the set's next rows for a Parquet file, in which every struct has all keys.

        Raises InputError if the trainer cannot read a prompt, OutputError if the set is damaged.
        """
        rows = self._rows(table, self.profile.rendering.nulls != "")
        columns = [column.array(rows) for column in self.columns.values()]
        return pa.table([*columns, *map(table.column, self._copied.values())], schema=self.schema)

    def lines(self, table: pa.Table) -> Iterator[dict[str, Any]]:
        """The same for JSON lines, in which structs, messages and tools have only the keys of their row."""
        rows = self._rows(table, self.profile.rendering.nulls == "all")
        columns: list[Iterable[Any]] = [column.values(rows) for column in self.columns.values()]
        columns += map(table.column, self._copied.values())
        columns = [without_nulls(c.to_pylist()) if isinstance(c, pa.ChunkedArray) else c for c in columns]
        return (dict(zip(self.schema.names, values, strict=True)) for values in zip(*columns, strict=True))

    def remarks(self) -> Iterator[str]:
        """Sentences on unusual rows so far, and on how the trainer's prompts differ from the scored ones."""
        trainer, rendering = self.profile.name, self.profile.rendering
        yield from self._notes
        if self._without_answer:
            # A warning only, because a reward function of the user's may need no answer.
            where, advice = f"column {self.answer!r} has", ""
            if self.answer is None:
                where = f"{self._folder} was scored without an answer column:"
                advice = f"; name one with --answer-column, of {self._own_columns}"
            yield (
                f"warning: {where} no answer in {self._without_answer:,} of {self.rows:,} rows, and a reward "
                f"function that compares with one cannot judge them{advice}"
            )
        if self._open_ended:
            yield (
                f"warning: {self._open_ended:,} prompts end with words of the assistant; scoring went on "
                f"from there, and {trainer} renders them as a finished turn"
            )
        if self._sizes:
            mean = sum(self._sizes) / len(self._sizes)
            yield f"group sizes: set {trainer}'s rollouts per prompt to {mean:g}, their mean"
        if self.tools and not rendering.row_tools:
            renders = f"{trainer} renders no tools of a row"
            if rendering.code:
                renders = f"whether {rendering.code} renders them is not known here"
            yield (
                f"warning: prompts were scored with the tools of column {self.tools!r}; {renders}. "
                "`gaincurate score --tools-column none` scores without them"
            )
        if arguments := self._identity.get("segmentation", {}).get("template_kwargs"):
            keys = rendering.arguments or rendering.code or "nothing"
            scored = f"prompts were scored with the template arguments {json.dumps(arguments)}"
            yield f"{scored}; {trainer} takes them from {keys}"
        if media := [name for name in rendering.media if name in self.schema.names]:
            yield f"warning: {trainer} adds {media[0]!r} to the prompts; scores are of the text only"
        if self._nulls:
            other = "store them as JSON text"
            if rendering.nulls != "all":
                other = "give --out a name that ends in .jsonl"
            yield (
                f"warning: tool calls or tools have unlike keys; {trainer} renders null for each key that a "
                f"row lacks, which was not scored; {other}"
            )

    def _check(self) -> None:
        """Raise InputError if the trainer needs something that is missing, or an option has no effect."""
        trainer, options = self.profile, self.options
        if trainer.answer_needed and not self.has_answer:
            raise InputError(
                f"{trainer.name} cannot read rows without an answer, and this set names no answer column. "
                f"Give --answer-column, of {self._own_columns}; or --id-in-answer to write only the id."
            )
        for option, value, is_taken in (
            ("--data-source", options.data_source, trainer.judge is not None),
            ("--env-class", options.env_class, trainer.env_class),
        ):
            if value is not None and not is_taken:
                raise InputError(f"{option} {value}: {trainer.name} has nothing of that kind.")
        if trainer.judge_needed and options.data_source is None and trainer.judge not in self.source.names:
            raise InputError(
                f"{trainer.name} picks a row's reward function by the column {trainer.judge!r}, and the set "
                "has none. Give --data-source NAME: one that it knows, or one for a function of your own."
            )
        if options.with_scores and trainer.scores_refused:
            raise InputError(f"--with-scores: {trainer.scores_refused}. Leave it out.")

    def _rows(self, table: pa.Table, renders_nulls: bool) -> Rows:
        """Read rows, and count the unusual ones; with `renders_nulls`, look for nulls that Arrow adds."""
        answers = without_nulls(column_values(table, self.answer)) if self.answer else [None] * len(table)
        chats = chats_of(table, self._identity, bare=self.options.bare)
        messages, tools = [chat.messages for chat in chats], [chat.tools for chat in chats]
        self._open_ended += sum(turns[-1]["role"] == "assistant" for turns in messages)
        if self._counts_answers:
            self._without_answer += sum(value is None for value in answers)
        rows = Rows(table, table.column(ID).to_pylist(), messages, tools, answers, self.rows)
        self.rows += len(table)
        if renders_nulls and not self._nulls:
            columns = [c for name, c in self.columns.items() if c.type == self._chat or name == "tools"]
            self._nulls = any(has_nulls(column.array(rows).to_pylist()) for column in columns)
        return rows

    def _source_columns(self) -> dict[str, str]:
        """The source columns that are copied: the name in the file to the name in the set."""
        names = [name for name in self.source.names if not name.startswith(PREFIX)]
        copied: dict[str, str] = {}
        for name in names:
            column = self.columns.get(name)
            if column is not None and column.replaces == name:
                continue
            new = name
            if column is not None or name in self.profile.reserved:
                new = f"source_{name}"
                if new in names or new in self.columns:
                    raise InputError(
                        f"{self.profile.name} gives {name!r} a meaning of its own, and the set has both that "
                        f"column and {new!r}; rename one of them in the data.",
                        column=name,
                    )
                self._notes.append(
                    f"column {name!r} is written as {new!r}: {self.profile.name} needs that name"
                )
            copied[new] = name
        scores = [name for name in self.source.names if name.startswith(PREFIX) and name != ID]
        return copied | {name: name for name in scores if self.options.with_scores}

    # The columns from which profiles choose.

    def messages(self) -> ExportColumn:
        """The chat messages, a list of {role, content}."""
        return ExportColumn(self._chat, lambda rows: rows.messages, self._prompt)

    def messages_json(self) -> ExportColumn:
        """The chat messages as JSON text."""
        return ExportColumn(pa.string(), lambda rows: list(map(json_text, rows.messages)), self._prompt)

    def after_system(self) -> ExportColumn:
        """The messages after the system message, for trainers with a separate column for that one."""
        return ExportColumn(self._chat, lambda rows: [_split(m)[1] for m in rows.messages], self._prompt)

    def system_text(self) -> ExportColumn:
        """The system message; null if there is none."""
        return ExportColumn(pa.string(), lambda rows: [_split(m)[0] for m in rows.messages])

    def question(self) -> ExportColumn:
        """The one user message as text. The system message, equal in all rows, is stored in `system`.

        The profile's `launch` must set it from `view.system`, or a hint must say that it is left out.
        """

        def text(gc_id: str, messages: list[Message]) -> Any:
            trainer, (system, rest) = self.profile.name, _split(messages)
            roles = [message["role"] for message in rest]
            if roles != ["user"]:
                raise InputError(
                    f"{trainer} reads a prompt as one user message with a system message in its settings, "
                    f"and the prompt of {gc_id!r} is {', '.join(roles) or 'empty'}. --without-system leaves "
                    "out the examples of the scoring run; rows with several turns cannot be exported.",
                    gc_id=gc_id,
                )
            if self._has_questions and system != self.system:
                raise InputError(
                    f"{trainer} has one system message in its settings, and that of {gc_id!r} is not the one "
                    "of the rows before it. Export these rows into separate files.",
                    gc_id=gc_id,
                )
            self.system, self._has_questions = system, True
            return rest[0]["content"]

        return ExportColumn(pa.string(), lambda rows: list(map(text, rows.ids, rows.messages)), self._prompt)

    def row_tools(self) -> ExportColumn:
        """The tools of a row, a list of JSON schemas, empty for none; JSON text if the source has text."""
        kind = column_type(self.source, self.tools or "")
        if _is_list(kind) and pa.types.is_struct(kind.value_type) and not self._prompt.endswith(".input"):
            return ExportColumn(kind, lambda rows: [tools or [] for tools in rows.tools], self.tools)
        return ExportColumn(
            pa.string(), lambda rows: [json_text(tools or []) for tools in rows.tools], self.tools
        )

    def ids(self) -> ExportColumn:
        """The ids of the prompts, `gc_id`."""
        return ExportColumn(pa.string(), lambda rows: rows.ids)

    def places(self, field: str | None = None) -> ExportColumn:
        """0, 1, ... over the whole file; a number that the source has in `field` (a dotted name) is kept."""
        try:
            kind = column_type(self.source, field or "")
        except InputError:
            kind = pa.null()
        if not pa.types.is_integer(kind):
            kind, field = pa.int64(), None

        def values(rows: Rows) -> list[int]:
            given = column_values(rows.table, field) if field else [None] * len(rows.ids)
            return [place if value is None else value for place, value in enumerate(given, rows.first)]

        return ExportColumn(kind, values, field)

    def gold(self, *, as_text: bool = False, keeps_numbers: bool = False) -> ExportColumn:
        """The answer for scorers that compare text: numbers become text, and with `as_text` all values.

        A whole number gets no decimal point: pandas turns a column of integers with nulls into floats, and
        a scorer would compare `7.0` with the `7` of a completion.
        """
        kind, self._writes_answers = self._answer_type, True
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        is_number = self._numbers_as_text = is_number and not keeps_numbers
        is_text = kind == pa.string() or (as_text and not self.id_in_answer)  # JSON with the id keeps types

        def values(rows: Rows) -> list[Any]:
            answers = rows.answers
            if is_number:
                answers = pa.array(answers, kind).cast(pa.string()).to_pylist()
            elif is_text:
                answers = [a if a is None or isinstance(a, str) else json_text(a) for a in answers]
            if not self.id_in_answer:
                return answers
            return [json_text({ID: i, "answer": a}) for i, a in zip(rows.ids, answers, strict=True)]

        written = pa.string() if is_number or is_text or self.id_in_answer else kind
        return ExportColumn(written, values, self.answer)

    @property
    def has_answer(self) -> bool:
        """Whether the view has an answer to write."""
        return self.answer is not None or self.id_in_answer

    def answers(self, name: str, *, as_text: bool = False) -> dict[str, ExportColumn]:
        """`gold` as a column with this name, if the view has an answer to write."""
        return {name: self.gold(as_text=as_text)} if self.has_answer else {}

    def same(self, name: str | None, text: str | None) -> dict[str, ExportColumn]:
        """A column with the same text in every row; without a text, the source's column with that name."""
        if name is None or (text is None and name not in self.source.names):
            return {}
        if text is not None:
            return {name: ExportColumn(pa.string(), lambda rows: [text] * len(rows.ids))}
        return {name: ExportColumn(self.source.field(name).type, lambda rows: rows.table.column(name), name)}

    def struct(
        self, name: str, ours: Mapping[str, ExportColumn], defaults: Mapping[str, str] = {}
    ) -> ExportColumn:
        """A struct with the fields `ours`, and those of the source's struct with the same name, if any.

        A field of the source that has the name of one of ours is renamed to `source_<field>`, unless ours
        replaces it. A default is used if the source has no value.
        """
        kind = self.source.field(name).type if name in self.source.names else pa.null()
        before = list(kind) if pa.types.is_struct(kind) else []
        taken = {key for key, column in ours.items() if column.replaces != f"{name}.{key}" and key != ID}
        names = {f.name: f"source_{f.name}" if f.name in taken else f.name for f in before}
        types = {names[f.name]: object_type(f.type) for f in before}
        # A field of the source whose type is null has no value in any row, so it takes the default.
        types |= {key: pa.string() for key in defaults if types.get(key, pa.null()) == pa.null()}
        types |= {key: column.type for key, column in ours.items()}

        def values(rows: Rows) -> list[dict[str, Any]]:
            olds = rows.table.column(name).to_pylist() if before else [None] * len(rows.ids)
            columns = {key: column.values(rows) for key, column in ours.items()}
            entries = []
            for place, old in enumerate(olds):
                entry = {names[key]: value for key, value in without_nulls(old or {}).items()}
                entry |= {key: text for key, text in defaults.items() if entry.get(key) is None}
                entries.append(entry | {key: column[place] for key, column in columns.items()})
            return entries

        return ExportColumn(pa.struct(list(types.items())), values, name if before else None)


def has_nulls(rows: Iterable[Sequence[Any] | None]) -> bool:
    """Whether messages or tools have nulls inside their fields. Templates skip fields that are null."""
    items = (item for row in rows for item in row or () if isinstance(item, dict))
    fields = (field for item in items for field in item.values())
    return any(field is not None and without_nulls(field) != field for field in fields)


def column_type(schema: pa.Schema, name: str) -> pa.DataType:
    """The type of a column; `a.b` is a field of a struct, or text if `a` is JSON text.

    Raises InputError, which lists the columns, if there is no such column.
    """
    if name in schema.names:
        return schema.field(name).type
    head, _, rest = name.partition(".")
    outer = schema.field(head).type if rest and head in schema.names else None
    if outer is not None and pa.types.is_struct(outer):
        return column_type(pa.schema(list(outer)), rest)
    if outer in (pa.string(), pa.large_string()):
        return pa.string()
    raise InputError(
        f"there is no column {name!r} (--answer-column); the columns are: {', '.join(schema.names)}"
        f"{near(name, schema.names)}.",
        column=name,
    )


def chat_type(scored: ScoredSet, *, bare: bool) -> pa.DataType:
    """The type of a set's message lists, with all keys of messages; only JSON text must be read for it."""
    identity: Json = scored.identity
    columns = Columns.of(identity)
    kind = column_type(scored.schema, columns.prompt)
    prompts = [[] if bare else identity.get("segmentation", {}).get("shots") or []]
    types: list[pa.DataType] = [message_array(prompts[0]).type]
    if _is_list(kind):
        types.append(kind.value_type)
    elif columns.chat_text or "." in columns.prompt or columns.prompt == "messages":
        for table in scored.tables():
            prompts = prompts_of(table, identity, bare=True)
            types.append(message_array([message for prompt in prompts for message in prompt]).type)
    fields = {"role": pa.string(), "content": pa.string()}
    members = [member for struct in filter(pa.types.is_struct, types) for member in struct]
    for name, other in ((m.name, m.type) for m in members if m.name not in ("role", "content")):
        first = fields.get(name, other)
        try:
            schemas = [pa.schema([(name, kind)]) for kind in (first, other)]
            fields[name] = pa.unify_schemas(schemas, promote_options="permissive").field(name).type
        except pa.ArrowException as error:
            raise InputError(
                f"the key {name!r} of chat messages has type {first} in some rows and {other} in others; one "
                "file cannot hold both."
            ) from error
    return pa.list_(pa.struct(list(fields.items())))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _split(messages: list[Message]) -> tuple[str | None, list[Message]]:
    """The text of the system message, if the first message is one, and the other messages."""
    if messages and messages[0]["role"] == "system":
        return messages[0]["content"], messages[1:]
    return None, messages


def json_text(value: Any) -> str:
    """A value as JSON text; a type that JSON does not have becomes a string."""
    return json.dumps(value, ensure_ascii=False, default=str)

"""The columns of the trainers' views by kind, each with its type before the first row is read.

Types come first so that all batches of a file agree, also where the first thousand answers are null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from gaincurate.core.artifact import Json
from gaincurate.core.options import near
from gaincurate.core.prompts import (
    Columns,
    Message,
    Tool,
    column_values,
    message_array,
    prompts_of,
    without_nulls,
)
from gaincurate.core.schema import ID, object_type
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError

_PLAIN = pa.struct([("role", pa.string()), ("content", pa.string())])


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """The options of `gaincurate export`, under the same names; `id_in_answer` None is the trainer's way."""

    bare: bool = False
    with_scores: bool = False
    answer_column: str | None = None
    id_in_answer: bool | None = None
    data_source: str | None = None
    env_class: str | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a set: its table, their messages, tools and answers, and how many came before."""

    table: pa.Table
    messages: list[list[Message]]
    tools: list[list[Tool] | None]
    answers: list[Any]
    first: int

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        ids: list[str] = self.table.column(ID).to_pylist()
        return ids


@dataclass(frozen=True, slots=True)
class Own:
    """A column that a view writes: its type, its values for some rows, and the source column that it
    replaces in the file.
    """

    type: pa.DataType
    values: Callable[[Rows], Any]
    stands_for: str | None = None


@dataclass(slots=True)
class Parts:
    """Columns by kind, for one set and its options.

    `chat` is the type of a message list. `answer` and `tools` name columns, None where there is none; a dot
    goes into a struct. `system` is the system message of prompts that are given as one text, known once rows
    were read. `writes_answers` says whether a column with answers was asked for, `numbers_as_text` whether it
    writes numbers as text.
    """

    trainer: str
    schema: pa.Schema
    prompt: str
    answer: str | None
    chat: pa.DataType
    id_in_answer: bool
    tools: str | None = None
    system: str | None = None
    writes_answers: bool = field(default=False, init=False)
    numbers_as_text: bool = field(default=False, init=False)
    _begun: bool = field(default=False, init=False)

    def messages(self) -> Own:
        """Whole chat messages, a list of {role, content}."""
        return Own(self.chat, lambda rows: rows.messages, self.prompt)

    def messages_json(self) -> Own:
        """The same as the text of a JSON list."""
        return Own(pa.string(), lambda rows: [_json(messages) for messages in rows.messages], self.prompt)

    def after_system(self) -> Own:
        """The messages after a system message, for trainers that want that one apart."""
        return Own(self.chat, lambda rows: [_split(m)[1] for m in rows.messages], self.prompt)

    def system_text(self) -> Own:
        """The system message; null where there is none."""
        return Own(pa.string(), lambda rows: [_split(m)[0] for m in rows.messages])

    def question(self) -> Own:
        """The one user message as text; its system message, the same for all rows, goes to `system`.

        The system message is then in no column: `launch` has to set it from `view.parts.system`, and a
        trainer with no setting for it has to say in a hint that it is left out.
        """
        return Own(pa.string(), self._questions, self.prompt)

    def row_tools(self) -> Own:
        """The tools of a row, a list of JSON schemas, empty for none; JSON text where the source has text."""
        kind = column_type(self.schema, self.tools or "")
        if _is_list(kind) and pa.types.is_struct(kind.value_type) and not self.prompt.endswith(".input"):
            return Own(kind, lambda rows: [tools or [] for tools in rows.tools], self.tools)
        return Own(pa.string(), lambda rows: [_json(tools or []) for tools in rows.tools], self.tools)

    def ids(self) -> Own:
        """The ids."""
        return Own(pa.string(), lambda rows: rows.ids)

    def places(self, field: str | None = None) -> Own:
        """0, 1, ... over the whole file. A number that the source has in `field` (a dotted name) stays."""

        def places(rows: Rows) -> Sequence[int]:
            return range(rows.first, rows.first + len(rows.messages))

        try:
            kind = None if field is None else column_type(self.schema, field)
        except InputError:
            kind = None
        if field is None or kind is None or not pa.types.is_integer(kind):
            return Own(pa.int64(), places)

        def values(rows: Rows) -> list[int]:
            pairs = zip(column_values(rows.table, field), places(rows), strict=True)
            return [place if value is None else value for value, place in pairs]

        return Own(kind, values, field)

    def answer_text(self) -> Own:
        """`gold` as text: a text as it is, a list or a struct as JSON."""
        gold = self.gold()
        return replace(gold, type=pa.string(), values=lambda rows: [_text(a) for a in gold.values(rows)])

    def gold(self) -> Own:
        """The answer for scorers that compare text: a number as text, anything else as `answer_as_it_is`.

        A whole number has no decimal point, because pandas turns integers into floats where a column has
        nulls, and a scorer compares `7.0` with the `7` of a completion.
        """
        kind = self._answer_type()
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            return self.answer_as_it_is()
        self.numbers_as_text = True
        return self._answers(
            pa.string(), lambda rows: pa.array(rows.answers, kind).cast(pa.string()).to_pylist()
        )

    def answer_as_it_is(self) -> Own:
        """The answer in its own type; as text with the id in it if asked for."""
        kind = self._answer_type()
        if kind == pa.string():  # a value in JSON text has no type of its own
            return self._answers(kind, lambda rows: [_text(answer) for answer in rows.answers])
        return self._answers(kind, lambda rows: rows.answers)

    @property
    def has_answer(self) -> bool:
        """Whether the view has an answer to write."""
        return self.answer is not None or self.id_in_answer

    def same(self, text: str) -> Own:
        """One text for every row."""
        return Own(pa.string(), lambda rows: [text] * len(rows.messages))

    def column(self, name: str) -> Own:
        """A source column as it is."""
        return Own(self.schema.field(name).type, lambda rows: rows.table.column(name), name)

    def struct(
        self, name: str, our_fields: Mapping[str, Own], defaults: Mapping[str, str] | None = None
    ) -> Own:
        """A struct with these fields, in the source's struct of that name where it has one.

        A field of the source with the name of one of ours is renamed to `source_<field>`, unless ours
        replaces it. A default is used where the source has no value.
        """
        kind = self.schema.field(name).type if name in self.schema.names else None
        before = list(kind) if kind is not None and pa.types.is_struct(kind) else []
        stand_in = {
            key for key, ours in our_fields.items() if ours.stands_for == f"{name}.{key}" or key == ID
        }
        renamed = {
            f.name: f"source_{f.name}" for f in before if f.name in our_fields and f.name not in stand_in
        }
        types = {renamed.get(f.name, f.name): object_type(f.type) for f in before}
        for key in defaults or {}:
            if types.get(key, pa.null()) == pa.null():  # of the source's rows none has it
                types[key] = pa.string()
        types |= {key: ours.type for key, ours in our_fields.items()}

        def values(rows: Rows) -> list[dict[str, Any]]:
            olds = rows.table.column(name).to_pylist() if before else [None] * len(rows.messages)
            columns = {key: ours.values(rows) for key, ours in our_fields.items()}
            entries = []
            for place, old in enumerate(olds):
                entry = {renamed.get(key, key): value for key, value in without_nulls(old or {}).items()}
                entry |= {k: v for k, v in (defaults or {}).items() if entry.get(k) is None}
                entries.append(entry | {key: column[place] for key, column in columns.items()})
            return entries

        return Own(pa.struct(list(types.items())), values, name if before else None)

    def _answer_type(self) -> pa.DataType:
        return pa.string() if self.answer is None else object_type(column_type(self.schema, self.answer))

    def _answers(self, kind: pa.DataType, answers: Callable[[Rows], list[Any]]) -> Own:
        """Answers as a column, as JSON with the id if asked for."""
        self.writes_answers = True
        if not self.id_in_answer:
            return Own(kind, answers, self.answer)

        def with_id(rows: Rows) -> list[str]:
            return [_json({ID: i, "answer": a}) for i, a in zip(rows.ids, answers(rows), strict=True)]

        return Own(pa.string(), with_id, self.answer)

    def _questions(self, rows: Rows) -> list[str | None]:
        questions = []
        for gc_id, messages in zip(rows.ids, rows.messages, strict=True):
            system, rest = _split(messages)
            roles = [message["role"] for message in rest]
            if roles != ["user"]:
                raise InputError(
                    f"{self.trainer} reads a prompt as one user message with a system message in its "
                    f"settings, and the prompt of {gc_id!r} is {', '.join(roles) or 'empty'}. "
                    "--without-system leaves out the examples of the scoring run; rows with turns of their "
                    "own cannot go this way.",
                    gc_id=gc_id,
                )
            if self._begun and system != self.system:
                raise InputError(
                    f"{self.trainer} has one system message in its settings, and that of {gc_id!r} is not "
                    "the one of the rows before it. Export these rows apart from each other.",
                    gc_id=gc_id,
                )
            self.system, self._begun = system, True
            questions.append(rest[0]["content"])
        return questions


def has_nulls(rows: Iterable[Sequence[Any] | None]) -> bool:
    """Whether messages or tools have nulls inside their fields. Templates skip a field that is null."""
    fields = (
        field for row in rows for item in row or () if isinstance(item, dict) for field in item.values()
    )
    return any(field is not None and without_nulls(field) != field for field in fields)


def column_type(schema: pa.Schema, name: str) -> pa.DataType:
    """The type of a column; a dot goes into a struct, or into JSON text, whose values are text.

    Raises:
        InputError: no such column; lists those there are.
    """
    if name in schema.names:
        return schema.field(name).type
    head, _, rest = name.partition(".")
    if rest and head in schema.names and pa.types.is_struct(schema.field(head).type):
        return column_type(pa.schema(list(schema.field(head).type)), rest)
    if rest and head in schema.names and schema.field(head).type in (pa.string(), pa.large_string()):
        return pa.string()
    raise InputError(
        f"there is no column {name!r} (--answer-column); the columns are: {', '.join(schema.names)}"
        f"{near(name, schema.names)}.",
        column=name,
    )


def chat_type(scored: ScoredSet, identity: Json, *, bare: bool) -> pa.DataType:
    """The type of a set's message lists: role, content, and every other key that a message has.

    Only a column with messages as JSON text has to be read for that.
    """
    columns = Columns.of(identity)
    kind = column_type(scored.schema, columns.prompt)
    segmentation = identity.get("segmentation", {})
    shots = [] if bare else segmentation.get("shots") or []
    types: Iterable[pa.DataType] = [_items([shots])]
    if not _is_list(kind) and (columns.chat_text or "." in columns.prompt or columns.prompt == "messages"):
        types = [*types, *(_items(prompts_of(t, identity, bare=True)) for t in scored.tables())]
    elif _is_list(kind):
        types = [*types, kind.value_type]
    fields = {f.name: f.type for f in _PLAIN}
    for members in types:
        for member in members:
            type_so_far = fields.get(member.name, member.type)
            if member.name not in ("role", "content"):
                fields[member.name] = _common(type_so_far, member.type, member.name)
    return pa.list_(pa.struct(list(fields.items())))


def _items(prompts: Sequence[Sequence[Message]]) -> pa.DataType:
    kind = message_array([message for prompt in prompts for message in prompt]).type
    return kind if pa.types.is_struct(kind) else pa.struct([])


def _common(first: pa.DataType, second: pa.DataType, key: str) -> pa.DataType:
    try:
        schemas = [pa.schema([(key, first)]), pa.schema([(key, second)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(key).type
    except pa.ArrowException as error:
        raise InputError(
            f"the key {key!r} of chat messages holds {first} in some rows and {second} in others; one file "
            "cannot hold both."
        ) from error


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _split(messages: list[Message]) -> tuple[str | None, list[Message]]:
    """The system message's text, if the first one is that, and the others."""
    if messages and messages[0]["role"] == "system":
        return messages[0]["content"], messages[1:]
    return None, messages


def _text(answer: Any) -> str | None:
    return answer if answer is None or isinstance(answer, str) else _json(answer)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)

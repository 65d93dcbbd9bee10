"""The columns of prompts, answers and tools, the chat of each row, and the rows that a trainer reads.

A training row carries the whole scoring prompt, added system message and examples included, because scores
are of that prompt and not of the bare question. A source column named `prompt` that is not the prompt is
kept as `source_prompt`. Functions raise OutputError if the rows of a set contradict its identity, and
StorageError if a file of rows cannot be read or written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from gaincurate.core.arrow import one_line, read_parquet
from gaincurate.core.artifact import Json, broken
from gaincurate.core.files import write_stream
from gaincurate.core.foreign import json_value
from gaincurate.core.schema import ID, PREFIX
from gaincurate.errors import InputError, OutputError, SourceError

Message = dict[str, Any]
Tool = dict[str, Any]

PROMPT = "prompt"
"""The column of messages in training rows."""

_SHOWN = 60  # characters of a name in a sentence
_USUAL = {"role", "content"}  # fields of a message
_TEXT_PARTS = ("text", "input_text", "output_text")
# The text of a Python list, or of a NumPy array, of messages: what pandas writes into a CSV file.
_PYTHON_CHAT = re.compile(r"\s*(array\()?\[\s*\{\s*'(role|content)'\s*:")


class PromptProblem(Exception):
    """The reason why a row has no usable prompt; the caller adds the row."""


@dataclass(frozen=True, slots=True)
class Chat:
    """The prompt of one row: its messages, and the JSON schemas of the tools that its template renders."""

    messages: list[Message]
    tools: list[Tool] | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a source. A dot reaches into a struct (`extra_info.question`) or into JSON text."""

    prompt: str
    answer: str | None = None
    id: str | None = None
    tools: str | None = None
    chat_text: bool = False  # whether the prompts are chats as JSON text
    note: str = ""

    @classmethod
    def of(cls, identity: Json) -> Columns:
        """The columns that a set was scored with."""
        source = identity["source"]
        answer, id_, tools = (source.get(f"{use}_column") for use in ("answer", "id", "tools"))
        return cls(source["prompt_column"], answer, id_, tools, source.get("chat_text", False))

    def identity(self) -> Json:
        """The part of a set's identity that `of` reads; the last two keys are optional."""
        names = {"prompt_column": self.prompt, "answer_column": self.answer, "id_column": self.id}
        tools = {"tools_column": self.tools} if self.tools else {}
        return {**names, **tools, **({"chat_text": True} if self.chat_text else {})}

    def messages(self, value: Any, *, nulls: bool = False) -> list[Message]:
        """A row's own messages from its value in the prompt column; see `to_messages`.

        Raises:
            PromptProblem: null, empty, or no list of messages.
        """
        chat_text = self.chat_text or self.prompt.rpartition(".")[2] == "messages"
        return to_messages(value, chat_text=chat_text, nulls=nulls)

    def chats(self, table: pa.Table, *, nulls: bool = False) -> Iterator[Chat | PromptProblem]:
        """The prompt of each row of a table, or the reason why it has none; see `to_messages`.

        Raises:
            SourceError: a column of JSON text has a value that is no JSON.
        """
        values = column_values(table, self.prompt)
        tools = column_values(table, self.tools) if self.tools else [None] * len(values)
        responses = self.prompt.endswith(".input")
        for value, of_row in zip(values, tools, strict=True):
            try:
                yield Chat(self.messages(value, nulls=nulls), to_tools(of_row, responses=responses))
            except PromptProblem as problem:
                yield problem


def fields_of(table: pa.Table, name: str) -> pa.Table:
    """The fields of a struct column as columns. The name of a field may contain a dot."""
    names = [field.name for field in table.schema.field(name).type]
    return table.select([name]).flatten().rename_columns(names)


def parsed(text: Any) -> Any:
    """The object or list that a text is the JSON of; None for any other text."""
    if not isinstance(text, str) or not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return json_value(text, surrogates=True)
    except ValueError:
        return None


def column_values(table: pa.Table, name: str, start: int = 0) -> list[Any]:
    """A column's values as Python objects; `name` may reach into a struct or into a column of JSON text.

    `start` is the row of the source that is the table's first, for errors. Raises `OutputError` if there is
    no such column, and `SourceError` if a value in a column of JSON text is no JSON object.
    """
    if name in table.column_names:
        return list(table.column(name).to_pylist())
    head, _, rest = name.partition(".")
    if not rest or head not in table.column_names:
        raise OutputError(
            f"the set's identity names the column {name[:_SHOWN]!r}, which its rows do not have. Get the set "
            "again from where it came, or score again.",
            column=name,
        )
    if pt.is_struct(table.schema.field(head).type):
        return column_values(fields_of(table, head), rest, start)
    inner = []
    for row, text in enumerate(table.column(head).to_pylist(), start):
        value = parsed(text)
        if text is not None and not isinstance(value, dict):
            raise SourceError(
                f"row {row} (from 0): column {head!r} holds JSON objects as text elsewhere and none here. "
                "Make the column alike everywhere.",
                row=row,
                column=head,
            )
        for key in rest.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        inner.append(value)
    return inner


def to_messages(value: Any, *, chat_text: bool = False, nulls: bool = False) -> list[Message]:
    """The chat messages of a row: role, content, and the other fields of a message that are not null.

    A text is one user message, or with `chat_text` the JSON of a message list. Content in several text parts
    is joined. Arrow gives every message, and every struct in it, the keys of all others, so null fields are
    removed. With `nulls` only those of the messages themselves are removed, not deeper ones. Raises
    `PromptProblem` if the value is null, empty, or no list of messages.
    """
    if value is None:
        raise PromptProblem("the prompt is null")
    from_text = isinstance(value, str) and chat_text
    if from_text:
        try:
            value = json_value(value)
        except ValueError as error:
            reason = getattr(error, "msg", str(error))
            raise PromptProblem(f"the prompt is no JSON text of messages ({reason})") from error
        if not isinstance(value, list):
            raise PromptProblem("the prompt is JSON text, but not of a list of messages")
    if isinstance(value, str):
        why = None
        if not value.strip():
            why = "the prompt is empty"
        elif _PYTHON_CHAT.match(value):
            why = "the prompt is the text of a Python list of messages; write such lists with json.dumps"
        elif value.lstrip().startswith("[") and is_chat_text(value):
            why = "the prompt is a chat as JSON text, and the first prompt is not; make all of them chats"
        if why is not None:
            raise PromptProblem(why)
        return [{"role": "user", "content": value}]
    if not value:
        raise PromptProblem("the message list is empty")
    if not isinstance(value, list):
        raise PromptProblem("the prompt is neither a text nor a list of messages")
    messages = []
    for number, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise PromptProblem(f"message {number} has no role")
        content = _content(message.get("content"), number)
        messages.append({"role": message["role"], "content": content})
        if not message.keys() <= _USUAL:
            other = {k: v for k, v in message.items() if v is not None and k not in _USUAL}
            # JSON text has the nulls that its author wrote.
            messages[-1] |= other if from_text or nulls else without_nulls(other)
    return messages


def is_chat_text(text: Any) -> bool:
    """Whether a text is the JSON of a list of chat messages."""
    value = parsed(text)
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        return False
    roles = all(isinstance(message.get("role"), str) for message in value)
    return roles and any("content" in message for message in value)


def _content(content: Any, number: int) -> str | None:
    """A message's text, joined where it comes in parts."""
    if content is None or isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind, text = "text", part
        if isinstance(part, dict):
            kind, text = part.get("type") or "text", part.get("text")
        if not isinstance(text, str) or kind not in _TEXT_PARTS:
            named = f" (a part of type {kind!r})" if kind not in _TEXT_PARTS else ""
            raise PromptProblem(f"message {number} has content that is not text{named}")
        texts.append(text)
    return "".join(texts)


def to_tools(value: Any, *, responses: bool = False) -> list[Tool] | None:
    """The JSON schemas of a row's tools as `apply_chat_template(tools=...)` takes them; None without tools.

    The value is a list of schemas or of their JSON texts, or the JSON text of a list, which keeps nulls. With
    `responses` the Responses API's flat form becomes the nested one, as NeMo Gym does for a chat model.

    Raises:
        PromptProblem: anything else.
    """
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return None
    value = parsed(value) if isinstance(value, str) else without_nulls(value)
    if not isinstance(value, list):
        raise PromptProblem("its tools are no list of JSON schemas; --tools-column none leaves tools out")
    tools = []
    for each in value:
        tool = parsed(each) if isinstance(each, str) else each
        if not isinstance(tool, dict):
            raise PromptProblem(
                f"its tool {str(each)[:_SHOWN]!r} is no JSON schema; --tools-column none leaves tools out"
            )
        if responses and "function" not in tool and "name" in tool:
            function = {key: part for key, part in tool.items() if key != "type"}
            tool = {"type": "function", "function": function}
        tools.append(tool)
    return tools or None


def without_nulls(value: Any) -> Any:
    """A value without the null fields of the objects in it, at every depth. Items of lists stay."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def questions(table: pa.Table, identity: Json) -> list[str]:
    """The last user message of each prompt, without white space around it; empty where there is none."""
    texts = []
    for chat in replace(Columns.of(identity), tools=None).chats(table):
        messages = chat.messages if isinstance(chat, Chat) else []
        users = [message["content"] or "" for message in messages if message["role"] == "user"]
        texts.append(users[-1].strip() if users else "")
    return texts


def with_additions(
    messages: list[Message], system: str | None, shots: Sequence[Message], *, override: bool = False
) -> list[Message]:
    """The messages of a row with the system message and the examples of a run.

    Raises `PromptProblem` if both the row and the run have a system message and `override` is not set.
    """
    first = 1 if messages and messages[0]["role"] == "system" else 0
    system_messages, rest = messages[:first], messages[first:]
    if system is not None:
        if system_messages and not override:
            raise PromptProblem(
                "the row has a system message of its own and --system gives another; "
                "add --system-override to replace it"
            )
        system_messages = [{"role": "system", "content": system}]
    return [*system_messages, *shots, *rest]


def training_rows(rows: pa.Table, identity: Json, *, bare: bool, with_scores: bool) -> pa.Table:
    """The table for a trainer, of rows of a scored set with this identity.

    With `bare` the run's system message and examples are left out; with `with_scores` all `gc_` columns are
    included. Raises `InputError` if no Arrow column can hold fields of the messages, such as arguments of
    tool calls, and `OutputError` if a prompt cannot be read, so that the set contradicts its identity.
    """
    prompts = prompts_of(rows, identity, bare=bare, nulls=True)
    names = [name for name in rows.column_names if not name.startswith(PREFIX) or name == ID or with_scores]
    table = rows.select(names).replace_schema_metadata(None)
    messages = message_array(prompts) if prompts else pa.array([], pa.list_(pa.struct({})))
    if PROMPT not in names:
        return table.append_column(PROMPT, messages)
    if identity["source"]["prompt_column"] != PROMPT:
        table = table.append_column(f"source_{PROMPT}", table.column(PROMPT))
    return table.set_column(names.index(PROMPT), PROMPT, messages)


def message_array(values: Sequence[Any]) -> pa.Array:
    """Messages, or lists of them, as an Arrow array; an InputError if no column can hold a field."""
    try:
        return pa.array(values)
    except pa.ArrowException as error:
        raise InputError(
            f"the messages of these prompts have fields that no column can hold ({one_line(error)}). "
            "Write the arguments of tool calls as JSON text, as OpenAI's API does, and score again."
        ) from error


def prompts_of(rows: pa.Table, identity: Json, *, bare: bool, nulls: bool = False) -> list[list[Message]]:
    """The chat messages of each row as they were scored, or with `bare` the row's own; `nulls` as above."""
    source = {**identity["source"], "tools_column": None}
    return [chat.messages for chat in chats_of(rows, {**identity, "source": source}, bare=bare, nulls=nulls)]


def chats_of(rows: pa.Table, identity: Json, *, bare: bool = False, nulls: bool = False) -> list[Chat]:
    """The prompt of each row with its tools as it was scored; with `bare` its messages are the row's own."""
    added = {} if bare else identity.get("segmentation", {})
    system, shots, override = added.get("system"), added.get("shots", []), added.get("system_override", False)
    chats = []
    for place, chat in enumerate(Columns.of(identity).chats(rows, nulls=nulls)):
        try:
            if isinstance(chat, PromptProblem):
                raise chat
            messages = chat.messages
            if added:
                messages = with_additions(messages, system, shots, override=override)
        except PromptProblem as error:
            raise OutputError(f"row {rows.column(ID)[place]} of the scored set: {error}.") from error
        chats.append(Chat(messages, chat.tools))
    return chats


def read_rows(path: Path) -> pa.Table:
    """The rows that `write_rows` wrote; an OutputError if the file is broken."""
    return read_parquet(path, broken(path, "Restore it from a copy."))


def plain_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_rows` wrote as Python objects, without the nulls that Arrow adds to structs."""
    table = read_rows(path)
    messages = [to_messages(value) for value in table.column(PROMPT).to_pylist()]
    rows = table.drop_columns([PROMPT]).to_pylist()
    values = [{key: without_nulls(value) for key, value in row.items()} for row in rows]
    return [{**row, PROMPT: turns} for row, turns in zip(values, messages, strict=True)]


def write_rows(path: Path, table: pa.Table) -> None:
    """Write them as Parquet, atomically; see `as_parquet`.

    Raises:
        InputError: Parquet has no place for a column.
    """
    with write_stream(path) as file, as_parquet(path):
        pq.write_table(table, file)


@contextmanager
def as_parquet(path: Path) -> Iterator[None]:
    """Raise an InputError for values that a set can hold and a Parquet file cannot."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"{path} cannot hold a column of the set ({one_line(error)}). Score again without it, or with "
            "its values as text.",
            path=str(path),
        ) from error

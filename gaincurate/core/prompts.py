"""Which column is the prompt, what a row's messages are, and the rows that a trainer reads.

A training row carries the whole scoring prompt, added system message and examples included, because scores
are of that prompt and not of the bare question. A source column named `prompt` that is not the prompt is
kept as `source_prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from gaincurate.core.arrow import one_line, read_parquet
from gaincurate.core.artifact import Json, broken
from gaincurate.core.files import write_stream
from gaincurate.core.foreign import json_value
from gaincurate.core.options import near
from gaincurate.core.schema import ID, PREFIX
from gaincurate.errors import InputError, OutputError, SourceError

Message = dict[str, Any]

PROMPT = "prompt"
"""The column of messages in training rows."""

# `prompt` and `messages` are what trainers read; the three others are what data sets call a question.
_SHOWN = 60  # characters of a name in a sentence
_PROMPTS = ("prompt", "messages")
_QUESTIONS = ("problem", "question", "instruction")
_ANSWERS = ("answer", "ground_truth", "reward_model.ground_truth", "solution")


class PromptProblem(Exception):
    """Why one row has no usable prompt; the caller adds which row."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns in use; a dot goes into a struct (`extra_info.question`)."""

    prompt: str
    answer: str | None
    id: str | None
    note: str


def find_columns(
    schema: pa.Schema,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    id_column: str | None = None,
) -> Columns:
    """Find the columns, or check those asked for.

    Without a name the prompt is `prompt`, else `messages`, else the only one of `problem`, `question`
    and `instruction`, each only where its type can be a prompt. `gc_id` is kept as the id where the
    source has it: ids then outlive a change of the text.

    Raises:
        SourceError: a column is missing, unclear or of the wrong type; lists the columns.
    """
    if not schema.names:
        raise SourceError("no row has a column; give the rows one with the prompt, such as `prompt`.")
    listed = ", ".join(f"{field.name} ({_short(field.type)})" for field in schema)
    for name, option in ((prompt, "prompt"), (answer, "answer"), (id_column, "id")):
        if name is not None and _type_of(schema, name) is None:
            raise SourceError(
                f"there is no column {name!r} (--{option}-column); the columns are: {listed}"
                f"{near(name, schema.names)}.",
                column=name,
            )
    if prompt is not None:
        kind = _type_of(schema, prompt)
        if not _can_be_prompt(kind):
            raise SourceError(
                f"column {prompt!r} holds {_short(kind)}, not text or chat messages "
                "(a list of {role, content}); choose another with --prompt-column.",
                column=prompt,
            )
        prompt_column = prompt
    else:
        prompt_column = _find_prompt(schema, listed)
    if answer is None:
        answer = next((name for name in _ANSWERS if _type_of(schema, name) is not None), None)
    if id_column is None and ID in schema.names:
        id_column = ID
    note = f"prompt from column {prompt_column!r}, answer from " + (
        f"column {answer!r}" if answer else "no column"
    )
    if id_column:
        note += f", id from column {id_column!r}"
    return Columns(prompt_column, answer, id_column, note)


def _find_prompt(schema: pa.Schema, listed: str) -> str:
    usable = [n for n in (*_PROMPTS, *_QUESTIONS) if _can_be_prompt(_type_of(schema, n))]
    for name in _PROMPTS:
        if name in usable:
            return name
    if len(usable) == 1:
        return usable[0]
    reason = f"{' and '.join(usable)} could each be" if usable else "no column looks like"
    raise SourceError(
        f"{reason} the prompt; name it with --prompt-column. The columns are: {listed}.",
        columns=schema.names,
    )


def _type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    if name in schema.names:
        return schema.field(name).type
    head, _, rest = name.partition(".")
    if rest and head in schema.names and pt.is_struct(schema.field(head).type):
        return _type_of(pa.schema(list(schema.field(head).type)), rest)
    return None


def _is_text(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        kind = kind.value_type
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_chat(kind: pa.DataType) -> bool:
    if not (pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)):
        return False
    item = kind.value_type
    return bool(pt.is_struct(item) and {"role", "content"} <= {f.name for f in item})


def _can_be_prompt(kind: pa.DataType | None) -> bool:
    return kind is not None and (_is_text(kind) or _is_chat(kind))


def _short(kind: pa.DataType) -> str:
    text = "chat messages" if _is_chat(kind) else str(kind)
    return text if len(text) <= 40 else text[:37] + "..."


def column_values(table: pa.Table, name: str) -> list[Any]:
    """A column's values as Python objects; `name` may go into a struct.

    Raises:
        OutputError: the rows have no such column, so the set is not what its identity says.
    """
    if _type_of(table.schema, name) is None:
        raise OutputError(
            f"the set's identity names the column {name[:_SHOWN]!r}, which its rows do not have. Get the set "
            "again from where it came, or score again.",
            column=name,
        )
    if name in table.column_names:
        values: list[Any] = table.column(name).to_pylist()
        return values
    # One step at a time, as `_type_of` goes: a field's own name may have a dot in it.
    head, _, rest = name.partition(".")
    inner = table.select([head]).flatten()
    return column_values(inner.rename_columns([field.name for field in table.schema.field(head).type]), rest)


def to_messages(value: Any, column: str) -> list[Message]:
    """The row's own chat messages: role, content, and what else a message holds that is not null.

    A text is one user message; in a column called `messages` it is the JSON of a message list.

    Raises:
        PromptProblem: null, empty, or no list of messages.
    """
    if value is None:
        raise PromptProblem("the prompt is null")
    if isinstance(value, str) and column.rsplit(".", 1)[-1] == "messages":
        try:
            value = json_value(value, surrogates=True)
            json.dumps(value, ensure_ascii=False).encode()  # an escape can write what no text can hold
        except UnicodeEncodeError as error:
            raise PromptProblem("messages holds half of a surrogate pair") from error
        except ValueError as error:
            reason = getattr(error, "msg", str(error))
            raise PromptProblem(f"messages is a text but no JSON ({reason})") from error
        if not isinstance(value, list):
            raise PromptProblem("messages is a text whose JSON is no list")
    if isinstance(value, str):
        if not value.strip():
            raise PromptProblem("the prompt is empty")
        return [{"role": "user", "content": value}]
    if not value:
        raise PromptProblem("the message list is empty")
    if not isinstance(value, list):
        raise PromptProblem("the prompt is neither a text nor a list of messages")
    messages = []
    for number, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise PromptProblem(f"message {number} has no role")
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            raise PromptProblem(f"message {number} has content that is not text")
        # Arrow gives every message the keys that any message has; the null ones were never there.
        other_keys = {k: v for k, v in message.items() if v is not None and k not in ("role", "content")}
        messages.append({"role": message["role"], "content": content, **other_keys})
    return messages


def questions(values: Sequence[Any], column: str) -> list[str]:
    """What each prompt asks: its last user message without white space around it, empty where there is none.

    Args:
        values: as `column_values` gives them.
        column: where they are from.
    """
    texts = []
    for value in values:
        try:
            users = [m["content"] for m in to_messages(value, column) if m["role"] == "user"]
        except PromptProblem:
            users = []
        texts.append((users[-1] or "").strip() if users else "")
    return texts


def with_additions(
    messages: list[Message], system: str | None, shots: Sequence[Message], *, override: bool = False
) -> list[Message]:
    """The messages that the model sees: the row's own with a run's system message and examples put in.

    Args:
        messages: the row's own.
        system: a system message for rows without one.
        shots: chat messages put after the system message.
        override: replace rows' own system messages.

    Raises:
        PromptProblem: the row has a system message of its own, and there is no `override`.
    """
    system_messages = messages[:1] if messages and messages[0]["role"] == "system" else []
    rest = messages[len(system_messages) :]
    if system is not None:
        if system_messages and not override:
            raise PromptProblem(
                "the row has a system message of its own and --system gives another; "
                "add --system-override to replace it"
            )
        system_messages = [{"role": "system", "content": system}]
    return [*system_messages, *shots, *rest]


def training_rows(rows: pa.Table, identity: Json, *, bare: bool, with_scores: bool) -> pa.Table:
    """The table for a trainer.

    Args:
        rows: rows of a scored set.
        identity: the set's identity, which says where the prompt is and what was added to it.
        bare: leave the added system message and examples out.
        with_scores: keep all `gc_` columns.

    Raises:
        OutputError: a row's prompt cannot be read, so the set is not what its identity says.
    """
    column, prompts = identity["source"]["prompt_column"], prompts_of(rows, identity, bare=bare)
    names = [name for name in rows.column_names if not name.startswith(PREFIX) or name == ID or with_scores]
    table = rows.select(names).replace_schema_metadata(None)
    messages = pa.array(prompts, None if prompts else pa.list_(pa.struct({})))
    if PROMPT not in names:
        return table.append_column(PROMPT, messages)
    if column != PROMPT:
        table = table.append_column(f"source_{PROMPT}", table.column(PROMPT))
    return table.set_column(table.column_names.index(PROMPT), PROMPT, messages)


def prompts_of(rows: pa.Table, identity: Json, *, bare: bool) -> list[list[Message]]:
    """The chat messages of each row as they were scored, or with `bare` the row's own.

    Raises:
        OutputError: as `training_rows`.
    """
    column, segmentation = identity["source"]["prompt_column"], identity.get("segmentation", {})
    system, shots = (None, []) if bare else (segmentation.get("system"), segmentation.get("shots", []))
    override, prompts = segmentation.get("system_override", False), []
    for place, value in enumerate(column_values(rows, column)):
        try:
            prompts.append(with_additions(to_messages(value, column), system, shots, override=override))
        except PromptProblem as error:
            raise OutputError(f"row {rows.column(ID)[place]} of the scored set: {error}.") from error
    return prompts


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows that `write_rows` wrote.

    Raises:
        OutputError: the file is broken, or lacks one of `columns`.
        StorageError: it cannot be read.
    """
    return read_parquet(path, broken(path, "Restore it from a copy."), columns)


def write_rows(path: Path, table: pa.Table) -> None:
    """Write them as Parquet, atomically.

    Raises:
        InputError: Parquet has no place for a column.
        StorageError: the file system refused.
    """
    with write_stream(path) as file, as_parquet(path):
        pq.write_table(table, file)


@contextmanager
def as_parquet(path: Path) -> Iterator[None]:
    """Say which values a set can hold and a Parquet file cannot.

    Raises:
        InputError: there are some.
    """
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"{path} cannot hold a column of the set ({one_line(error)}). Score again without it, or with "
            "its values as text.",
            path=str(path),
        ) from error

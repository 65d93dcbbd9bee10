"""Which columns of a source hold prompts, answers, ids and tools.

A text column can hold chats, or objects with a chat in them, as JSON, because Arrow gives a column one type.
The first rows decide for the whole column; a row that differs is refused.
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from gaincurate.core.columns import is_text
from gaincurate.core.options import near
from gaincurate.core.prompts import Columns, column_values, fields_of, is_chat_text, parsed
from gaincurate.core.schema import ID
from gaincurate.errors import SourceError

# The first are the names that trainers and NeMo Gym read, the second those that data sets give to a question.
_PROMPTS = ("prompt", "messages", "responses_create_params.input")
_QUESTIONS = ("problem", "question", "instruction")
_ANSWERS = ("answer", "ground_truth", "reward_model.ground_truth", "expected_answer", "solution")
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")


def find_columns(
    schema: pa.Schema,
    first: pa.Table | None = None,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    id_column: str | None = None,
    tools: str | None = None,
) -> Columns:
    """Find the columns in a source's schema, or check those asked for.

    Without a name the prompt is `prompt`, else `messages`, else NeMo Gym's `responses_create_params.input`,
    else the only one of `problem`, `question` and `instruction`, each only where its type can be a prompt.
    The tools are `tools` beside the prompt (`responses_create_params.tools`), else the column `tools`.
    `gc_id` is kept as the id where the source has it: ids then outlive a change of the text.

    `first` are the first rows, which decide whether a text column holds chats, or objects, as JSON. The given
    names may reach into a struct, and `tools` may be "none". Raises `SourceError`, which lists the columns,
    if a column is missing, ambiguous or of the wrong type.
    """
    if not schema.names:
        raise SourceError("no row has a column; give the rows one with the prompt, such as `prompt`.")
    listed = ", ".join(f"{field.name} ({_short(field.type)})" for field in schema)
    asked_tools = tools if tools != "none" else None
    for name, option in ((prompt, "prompt"), (answer, "answer"), (id_column, "id"), (asked_tools, "tools")):
        if name is not None and _type_of(schema, name, first) is None:
            raise SourceError(
                f"there is no column {name!r} (--{option}-column); the columns are: {listed}"
                f"{near(name, schema.names)}.",
                column=name,
            )
    if prompt is None:
        usable = [n for n in (*_PROMPTS, *_QUESTIONS) if _can_be_prompt(_type_of(schema, n, first))]
        if not usable or (usable[0] in _QUESTIONS and len(usable) > 1):
            reason = f"{' and '.join(usable)} could each be" if usable else "no column looks like"
            raise SourceError(
                f"{reason} the prompt; name it with --prompt-column. The columns are: {listed}.",
                columns=schema.names,
            )
        prompt = usable[0]
    kind = _type_of(schema, prompt, first)
    if not _can_be_prompt(kind):
        raise SourceError(
            f"column {prompt!r} holds {_short(kind)}, not text or chat messages "
            "(a list of {role, content}); choose another with --prompt-column.",
            column=prompt,
        )
    if answer is None:
        answer = next((name for name in _ANSWERS if _type_of(schema, name, first) is not None), None)
    if id_column is None and ID in schema.names:
        id_column = ID
    chat_text = is_text(kind) and is_chat_text(_first(first, prompt))
    chats = f"the chats that column {prompt!r} holds as JSON text"
    note = f"prompt from {chats if chat_text else f'column {prompt!r}'}, answer from "
    note += f"column {answer!r}" if answer else "no column"
    if id_column:
        note += f", id from column {id_column!r}"
    beside = f"{prompt.rpartition('.')[0]}.tools"
    for name in (beside, "tools") if tools is None else (asked_tools,):
        kind = _type_of(schema, name, first) if name else None
        if kind is None or pt.is_null(kind):
            continue
        if is_text(kind) or _is_list(kind):
            asked_tools = name
            note += f", tools from column {name!r}"
            break
        note += f". Column {name!r} holds {_short(kind)}, no list of tools, and is not rendered"
    if media := [name for name in _MEDIA if name in schema.names]:
        note += f". Scores are of the text alone, without column {media[0]!r}"
    return Columns(prompt, answer, id_column, asked_tools, chat_text, note)


def _type_of(schema: pa.Schema, name: str, first: pa.Table | None = None) -> pa.DataType | None:
    if name in schema.names:
        return schema.field(name).type
    head, _, rest = name.partition(".")
    if not rest or head not in schema.names:
        return None
    kind = schema.field(head).type
    if pt.is_struct(kind):
        inner = None if first is None else fields_of(first, head)
        return _type_of(pa.schema(list(kind)), rest, inner)
    value = parsed(_first(first, head)) if is_text(kind) else None
    if not isinstance(value, dict):
        return None
    return _type_of(pa.schema([(key, _kind_of(each)) for key, each in value.items()]), rest)


def _first(table: pa.Table | None, name: str) -> Any:
    """The first value of a column that is not null."""
    values = [] if table is None else column_values(table, name)
    return next((value for value in values if value is not None), None)


def _kind_of(value: Any) -> pa.DataType:
    """The Arrow type of a value of JSON as far as `find_columns` looks into it."""
    if isinstance(value, dict):
        return pa.struct([(key, _kind_of(each)) for key, each in value.items()])
    if isinstance(value, list):
        objects = value and all(isinstance(item, dict) for item in value)
        return pa.list_(_kind_of(dict(ChainMap(*value))) if objects else pa.null())
    return pa.null() if value is None else pa.string() if isinstance(value, str) else pa.float64()


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _is_chat(kind: pa.DataType) -> bool:
    is_of_structs = _is_list(kind) and pt.is_struct(kind.value_type)
    return is_of_structs and {"role", "content"} <= {field.name for field in kind.value_type}


def _can_be_prompt(kind: pa.DataType | None) -> bool:
    return kind is not None and (is_text(kind) or _is_chat(kind))


def _short(kind: pa.DataType) -> str:
    text = "chat messages" if _is_chat(kind) else str(kind)
    return text if len(text) <= 40 else text[:37] + "..."

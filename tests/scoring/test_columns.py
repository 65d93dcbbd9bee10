from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from gaincurate.core.prompts import Columns, PromptProblem, column_values
from gaincurate.core.source_columns import find_columns
from gaincurate.errors import SourceError

TEXT = pa.string()
MESSAGE = pa.struct([("role", TEXT), ("content", TEXT)])
CHAT = pa.list_(MESSAGE)
EXTRA = pa.struct([("answer", TEXT), ("index", pa.int64()), ("question", TEXT)])
REWARD = pa.struct([("ground_truth", TEXT), ("style", TEXT)])
VERL = pa.schema([("prompt", CHAT), ("ability", TEXT), ("reward_model", REWARD), ("extra_info", EXTRA)])


def found(fields: dict[str, pa.DataType], **asked: str) -> Columns:
    return find_columns(pa.schema(list(fields.items())), **asked)


PROMPTS = [
    TEXT, pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), TEXT), CHAT, pa.large_list(MESSAGE),
    pa.list_(MESSAGE, 2), pa.list_(pa.struct([("name", TEXT), ("content", TEXT), ("role", TEXT)])),
]  # fmt: skip


@pytest.mark.parametrize("kind", PROMPTS, ids=str)
def test_each_known_name_is_found_in_each_type_that_can_be_a_prompt(kind: pa.DataType) -> None:
    for name in ("prompt", "messages", "problem", "question", "instruction"):
        columns = found({"a": TEXT, name: kind, "z": CHAT})
        assert columns.prompt == name
        assert f"prompt from column {name!r}" in columns.note


OTHERS = [pa.int64(), pa.list_(TEXT), MESSAGE, pa.list_(pa.struct([("role", TEXT)])), pa.binary(), pa.null()]


@pytest.mark.parametrize("kind", OTHERS, ids=str)
def test_a_type_that_cannot_be_a_prompt_is_passed_over_or_refused(kind: pa.DataType) -> None:
    assert found({"prompt": kind, "question": TEXT}).prompt == "question"
    with pytest.raises(SourceError, match="no column looks like the prompt; name it with --prompt-column"):
        found({"prompt": kind, "answer": TEXT})
    with pytest.raises(SourceError, match="column 'prompt' holds .*, not text or chat messages"):
        found({"prompt": kind, "question": TEXT}, prompt="prompt")


def test_names_that_trainers_read_come_before_names_of_questions() -> None:
    for names in ("messages PROMPT", "question PROMPT problem", "question MESSAGES", "solution INSTRUCTION"):
        (expected,) = (name.lower() for name in names.split() if name.isupper())
        assert found(dict.fromkeys(names.lower().split(), TEXT)).prompt == expected


def test_two_questions_are_unclear_and_every_column_is_listed() -> None:
    with pytest.raises(SourceError) as caught:
        found({"question": TEXT, "n": pa.int64(), "problem": CHAT})
    assert str(caught.value) == (
        "problem and question could each be the prompt; name it with --prompt-column. The columns are: "
        "question (string), n (int64), problem (chat messages)."
    )
    assert caught.value.data["columns"] == ["question", "n", "problem"]


@pytest.mark.parametrize("name", ["extra", "extra_info.none", "prompt.role", ""])
@pytest.mark.parametrize("option", ["prompt", "answer", "id"])
def test_a_column_that_is_not_there_is_named_with_its_option(option: str, name: str) -> None:
    keyword = "id_column" if option == "id" else option
    sentence = rf"there is no column '{name}' \(--{option}-column\); the columns are: "
    with pytest.raises(SourceError, match=sentence):
        find_columns(VERL, **{keyword: name})


def test_the_first_known_answer_wins_and_none_is_fine() -> None:
    kinds = {"prompt": TEXT, "solution": TEXT, "reward_model": pa.struct([("ground_truth", TEXT)])}
    assert found(kinds).answer == "reward_model.ground_truth"
    assert found({**kinds, "answer": TEXT}).answer == "answer"
    assert found({"prompt": TEXT, "reward_model": TEXT}).answer is None
    assert found({"prompt": TEXT}).note == "prompt from column 'prompt', answer from no column"


def test_an_id_of_an_earlier_set_is_kept_unless_another_is_asked_for() -> None:
    assert found({"prompt": TEXT, "gc_id": TEXT}).id == "gc_id"
    assert found({"prompt": TEXT, "gc_id": TEXT, "uid": TEXT}, id_column="uid").id == "uid"


INNER = [
    {"a": {"b": 1, "b.c": "x"}, "a.b": 7}, None, {"a": None, "a.b": None}, {"a": {"b": None, "b.c": "y"}, "a.b": 8},
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s", INNER),
        ("s.a", [{"b": 1, "b.c": "x"}, None, None, {"b": None, "b.c": "y"}]),
        ("s.a.b", [7, None, None, 8]),  # a field of that very name comes first
        ("s.a.b.c", ["x", None, None, "y"]),
        ("t.u", ["first", "second", "third", "fourth"]),
    ],
)
@pytest.mark.parametrize("start", [0, 1, 3])
def test_values_come_out_of_structs_as_python_takes_them(name: str, expected: list[Any], start: int) -> None:
    kind = pa.struct([("a", pa.struct([("b", pa.int64()), ("b.c", TEXT)])), ("a.b", pa.int64())])
    structs = pa.chunked_array([pa.array(INNER[:2], kind), pa.array(INNER[2:], kind)])
    others = {"t.u": ["first", "second", "third", "fourth"], "t": pa.array([{"u": "inner"}] * 4)}
    whole = pa.table({"s": structs, **others})
    assert find_columns(whole.schema, prompt="t.u", answer=name).answer == name
    assert column_values(whole.slice(start), name) == expected[start:]


def test_messages_keep_what_else_they_hold_but_not_what_arrow_filled_in() -> None:
    row = [
        {"role": "system", "content": "s", "name": None, "tool_calls": None},
        {"role": "assistant", "content": None, "name": None, "tool_calls": [{"id": 1}]},
        {"role": "user", "content": "", "name": "ann", "tool_calls": None},
    ]
    assert Columns("prompt").messages(row) == [
        {"role": "system", "content": "s"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]},
        {"role": "user", "content": "", "name": "ann"},
    ]


@pytest.mark.parametrize("column", ["messages", "data.messages"])
def test_a_text_called_messages_is_the_json_of_a_list(column: str) -> None:
    chat = [{"role": "system", "content": "é"}, {"role": "user", "content": "😀\n"}]
    assert Columns(column).messages(json.dumps(chat)) == chat
    assert Columns(column).messages(chat) == chat


@pytest.mark.parametrize(
    ("value", "column", "reason"),
    [
        (None, "prompt", "the prompt is null"),
        ("", "prompt", "the prompt is empty"),
        (" \n\u00a0", "prompt", "the prompt is empty"),
        ([], "prompt", "the message list is empty"),
        (3, "prompt", "the prompt is neither a text nor a list of messages"),
        ("[]", "messages", "the message list is empty"),
        ("hello", "messages", r"the prompt is no JSON text of messages \(Expecting value\)"),
        ("", "messages", "the prompt is no JSON text of messages"),
        ('{"role": "user"}', "messages", "the prompt is JSON text, but not of a list of messages"),
        ('"text"', "messages", "the prompt is JSON text, but not of a list of messages"),
        ("[" * 100_000, "messages", "the prompt is no JSON text of messages"),
        ("[" + "9" * 5000 + "]", "messages", "the prompt is no JSON text of messages"),
        (r'[{"role": "user", "content": "\ud800"}]', "messages", "the prompt is no JSON text of messages .a"),
        ('["text"]', "messages", "message 0 has no role"),
        ([{"role": "user", "content": "x"}, None], "prompt", "message 1 has no role"),
        ([{"role": None, "content": "x"}], "prompt", "message 0 has no role"),
        ([{"role": 3, "content": "x"}], "prompt", "message 0 has no role"),
        ('[{"role": "user", "content": 3}]', "messages", "message 0 has content that is not text"),
    ],
)
def test_what_is_no_prompt_says_why(value: Any, column: str, reason: str) -> None:
    with pytest.raises(PromptProblem, match=f"^{reason}"):
        Columns(column).messages(value)

"""Rows as people have them: tools, nulls that Arrow adds, chats as JSON text, content in parts, mixed lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

import templates
import tiny
from gaincurate.core.prompts import Chat, Columns, PromptProblem, column_values, to_tools
from gaincurate.core.scored_set import ScoredSet, open_scores
from gaincurate.core.source_columns import find_columns
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.local_engine import LocalEngine
from gaincurate.difficulty.prompts import Completion, read_prompts
from gaincurate.errors import GaincurateError, SourceError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset
from gaincurate.scoring.readers.source import open_source

Row = dict[str, Any]
QUESTION = [{"role": "user", "content": "How many apples are left?"}]
CHAT = [{"role": "system", "content": "Be exact."}, *QUESTION]


def tool(name: str, **parameters: Any) -> Row:
    properties = {key: {"type": "string", **value} for key, value in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    function = {"name": name, "description": f"does {name}", "parameters": schema}
    return {"type": "function", "function": function}


def call(name: str, **arguments: Any) -> list[Row]:
    """A turn with a call, its answer, and the question."""
    function = {"name": name, "arguments": arguments}
    return [
        {"role": "user", "content": "First this."},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "name": name, "content": "54"},
        *QUESTION,
    ]


def as_they_are(*chats: list[Row]) -> tuple[list[Row], list[tuple[list[Row], list[Row] | None]]]:
    return [{"prompt": chat} for chat in chats], [(chat, None) for chat in chats]


def user(*content: Any) -> list[Row]:
    """A question, or one in parts."""
    return [{"role": "user", "content": content[0] if len(content) == 1 else list(content)}]


MUL, WEATHER = tool("mul", a={}, b={}), tool("weather", city={"enum": ["Lyon", "Bonn"]})
ONE, TWO = tool("f", x={"default": 1}), tool("f", x={"default": "one", "enum": ["one", 2, None]})
GYM_TOOL = {"type": "function", **MUL["function"]}
DEEP = {"x": "one", "deep": {"y": [1, "a"], "z": None}}
# Each set: rows as a file has them, and the messages and tools that a trainer renders for each row.
SETS: dict[str, tuple[list[Row], list[tuple[list[Row], list[Row] | None]]]] = {
    "a list of schemas": (
        [{"prompt": QUESTION, "tools": [MUL]}, {"prompt": QUESTION, "tools": [WEATHER, MUL]}],
        [(QUESTION, [MUL]), (QUESTION, [WEATHER, MUL])],
    ),
    "JSON text, empty and null": (
        [{"prompt": QUESTION, "tools": t} for t in (json.dumps([MUL]), "[]", "", None)],
        [(QUESTION, [MUL]), (QUESTION, None), (QUESTION, None), (QUESTION, None)],
    ),
    "a list of JSON texts": (
        [{"prompt": QUESTION, "tools": [json.dumps(MUL)]}, {"prompt": QUESTION, "tools": []}],
        [(QUESTION, [MUL]), (QUESTION, None)],
    ),
    "schemas of unlike types": (
        [{"prompt": QUESTION, "tools": [ONE]}, {"prompt": QUESTION, "tools": [TWO]}],
        [(QUESTION, [ONE]), (QUESTION, [TWO])],
    ),
    "a text prompt": ([{"question": "How many?", "tools": [MUL]}], [(user("How many?"), [MUL])]),
    "NeMo Gym": (
        [{"responses_create_params": {"input": CHAT, "tools": [GYM_TOOL]}, "question": "another text"}],
        [(CHAT, [MUL])],
    ),
    "NeMo Gym with a mixed list inside": (
        [{"responses_create_params": {"input": CHAT, "metadata": [[0, 4, "Process"]]}}],
        [(CHAT, None)],
    ),
    "a column beside the prompt": (
        [{"x": {"input": CHAT, "tools": [MUL]}, "tools": ["not these"]}],
        [(CHAT, [MUL])],
    ),
    "calls with unlike arguments": as_they_are(
        call("mul", a=3, b=18), call("weather", city="Lyon"), call("now")
    ),
    "calls of unlike types": as_they_are(call("f", x=1), call("f", **DEEP)),
    "chats as JSON text": (
        [{"prompt": json.dumps(CHAT)}, {"prompt": json.dumps(call("mul", a=None, b=2))}],
        [(CHAT, None), (call("mul", a=None, b=2), None)],
    ),
    "content in parts": (
        [{"prompt": user(*({"type": "text", "text": text} for text in ("How ", "many?")))}],
        [(user("How many?"), None)],
    ),
    "content in parts and as text": (
        [
            {"prompt": [{"role": "system", "content": "s"}, *user("How?")]},
            {"prompt": user([{"type": "input_text", "text": "How?"}])},
            {"prompt": user("How", "?")},
        ],
        [([{"role": "system", "content": "s"}, *user("How?")], None), *[(user("How?"), None)] * 2],
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose template renders tools."""
    sizes = {**tiny.COMMON, "max_position_embeddings": 2048}
    folder = tmp_path_factory.mktemp("tools") / "model"
    return tiny.save_model(folder, transformers.LlamaConfig(**sizes), templates.TOOLS)


def scored(tmp_path: Path, rows: Sequence[Row], model: Path, **options: Any) -> ScoredSet:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    score_dataset(ScoreConfig(data=str(data), model=str(model), out=tmp_path / "set", **options))
    return open_scores(tmp_path / "set")


def angle(model: Path, messages: list[Row], tools: list[Row] | None) -> tuple[int, float]:
    """Tokens and `gc_angle` of one prompt, rendered by itself and computed in float64 from all pairs."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model)
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    question = messages[-1]["content"].strip()
    start = text.rindex(question)
    spans = encoded["offset_mapping"]
    inside = [i for i, (a, b) in enumerate(spans) if a < start + len(question) and b > start]
    weights = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).model
    states: list[torch.Tensor] = []
    weights.layers[-1].mlp.register_forward_pre_hook(lambda _, given: states.append(given[0][0]))
    with torch.inference_mode():
        weights(input_ids=torch.tensor([encoded["input_ids"]]))
    units = torch.nn.functional.normalize(states[0], dim=-1)
    pairs = units @ units.T
    first, last = inside[0], inside[-1] + 1
    intra, inter = pairs[first:last, first:last].mean(), pairs[first:last, :first].mean()
    return len(encoded["input_ids"]), float(intra + inter)


@pytest.mark.parametrize("case", SETS, ids=str)
def test_a_score_is_of_the_prompt_that_the_template_makes(case: str, tmp_path: Path, model: Path) -> None:
    rows, prompts = SETS[case]
    options = {"prompt_column": "x.input"} if "x" in rows[0] else {}
    result = scored(tmp_path, rows, model, **options).take(range(len(rows)))
    expected = [angle(model, *prompt) for prompt in prompts]
    assert result.column("gc_prompt_tokens").to_pylist() == [tokens for tokens, _ in expected]
    assert result.column("gc_angle").to_pylist() == pytest.approx([value for _, value in expected], abs=1e-5)


def test_rollouts_are_of_the_prompt_with_its_tools(tmp_path: Path, model: Path) -> None:
    rows: list[Row] = [
        {"prompt": QUESTION, "tools": [MUL], "answer": "1"},
        {"prompt": call("f", x=1), "tools": []},
    ]
    prompts = read_prompts(scored(tmp_path, rows, model), range(2), None)
    given: dict[str, Any] = {"scored": tmp_path / "set", "out": tmp_path / "o", "verifier": "exact"}
    given["model"] = str(model)
    engine = LocalEngine(RolloutConfig(**given, max_tokens=2, device="cpu", threads=1), {})
    done = [item for part in engine.generate(prompts, frozenset()) for item in part]
    counts = {item.gc_id: item.prompt_tokens for item in done if isinstance(item, Completion)}
    assert counts == {prompt.gc_id: prompt.tokens for prompt in prompts}


REFUSED: dict[str, tuple[list[Any], str]] = {
    "a chat among plain texts": (
        ["How many?", json.dumps(CHAT)],
        "row 1 .*a chat as JSON text, and the first",
    ),
    "a Python list": ([str(user("How?"))], "row 0 .*the text of a Python list of messages"),
    "a picture": (
        [user([{"type": "image", "image": "a.png"}])],
        r"row 0 .*message 0 has content that is not text \(a part of type 'image'\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_a_prompt_that_cannot_be_read_is_refused_with_its_row(case: str, tmp_path: Path, model: Path) -> None:
    prompts, sentence = REFUSED[case]
    with pytest.raises(GaincurateError, match=sentence):
        scored(tmp_path, [{"prompt": prompt} for prompt in prompts], model)


def test_tools_that_are_no_schemas_are_refused() -> None:
    for value, sentence in [
        ("calculator", "its tools are no list of JSON schemas; --tools-column none leaves tools out"),
        ({"name": "mul"}, "its tools are no list of JSON schemas"),
        (["calculator", "search"], "its tool 'calculator' is no JSON schema"),
        ("[1]", "its tool '1' is no JSON schema"),
    ]:
        with pytest.raises(PromptProblem, match=f"^{sentence}"):
            to_tools(value)


def test_text_keeps_the_nulls_of_its_author_and_arrow_values_lose_theirs() -> None:
    schema = tool("f", x={"default": None, "enum": ["a", None]})
    assert to_tools(json.dumps([schema])) == [schema]
    assert to_tools([schema]) == [tool("f", x={"enum": ["a", None]})]


def found(rows: Sequence[Row], tmp_path: Path, **asked: str) -> Columns:
    source = open_source(str(tiny.write_jsonl(tmp_path / "rows.jsonl", rows)))
    return find_columns(source.schema, source.first(), **asked)


GYM = {"input": CHAT, "tools": [MUL]}
COLUMNS: dict[str, tuple[Row, str, str | None]] = {
    "verl's answer": ({"prompt": CHAT, "reward_model": {"ground_truth": "7"}}, "prompt", None),
    "verl's answer as text": ({"prompt": CHAT, "reward_model": '{"ground_truth": "7"}'}, "prompt", None),
    "a number in text": ({"prompt": CHAT, "reward_model": '{"ground_truth": 7}'}, "prompt", None),
    "NeMo Gym": (
        {"responses_create_params": {"input": "How?"}, "question": "How?", "expected_answer": "7"},
        "responses_create_params.input",
        None,
    ),
    "NeMo Gym as text": (
        {"responses_create_params": json.dumps(GYM), "expected_answer": "7"},
        "responses_create_params.input",
        "responses_create_params.tools",
    ),
    "null tools": ({"prompt": CHAT, "tools": None, "answer": "7"}, "prompt", None),
    "tools of another type": ({"prompt": CHAT, "tools": {"mul": 1}, "answer": "7"}, "prompt", None),
}


@pytest.mark.parametrize("case", COLUMNS, ids=str)
def test_columns_are_found(case: str, tmp_path: Path) -> None:
    row, prompt, tools = COLUMNS[case]
    columns = found([row], tmp_path)
    assert (columns.prompt, columns.tools) == (prompt, tools)
    table = open_source(str(tmp_path / "rows.jsonl")).first()
    assert [str(value) for value in column_values(table, str(columns.answer))] == ["7"]
    assert all(isinstance(chat, Chat) for chat in columns.chats(table))
    expected = Columns(prompt, columns.answer, None, tools, columns.chat_text)
    assert Columns.of({"source": columns.identity()}) == expected


def test_json_text_of_an_object_that_ends_is_refused_with_its_row(tmp_path: Path) -> None:
    rows = [{"prompt": CHAT, "reward_model": text} for text in ('{"ground_truth": "7"}', None, "seven")]
    columns = found(rows, tmp_path)
    table = open_source(str(tmp_path / "rows.jsonl")).first()
    assert column_values(table.slice(0, 2), str(columns.answer)) == ["7", None]
    with pytest.raises(SourceError, match=r"row 2 .*: column 'reward_model' holds JSON objects as text"):
        column_values(table, str(columns.answer))


MIXED: dict[str, list[Any]] = {
    "trees of a puzzle": [{"claims": ["and", ["lying", 0], ["not", ["lying", 1]]]}],
    "unlike fields of two rows": [{"a": 1}, None, {"a": "x"}],
    "after a batch": [[1]] * 1500 + [[1, "a"]],
}


@pytest.mark.parametrize("case", MIXED, ids=str)
def test_lists_and_objects_of_mixed_types_are_kept_as_json_text(case: str, tmp_path: Path) -> None:
    values = MIXED[case]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"question": "How?", "v": value} for value in values])
    source = open_source(str(data))
    texts = pa.Table.from_batches(source.batches(), source.schema).column("v").to_pylist()
    assert [None if text is None else json.loads(text) for text in texts] == values
    (note,) = source.readers[0].notes
    assert note == f"{data}: column 'v' mixes types in its lists or objects, so it is kept as JSON text"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_ids_are_of_messages(kind: str, tmp_path: Path, model: Path) -> None:
    ids, parts = [], [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in CHAT]
    for number, prompt in enumerate((CHAT, json.dumps(CHAT), parts)):
        data, rows = tmp_path / f"{number}.{kind}", [{"prompt": prompt, "answer": "7"}]
        tiny.write_jsonl(data, rows) if kind == "jsonl" else pq.write_table(pa.Table.from_pylist(rows), data)
        score_dataset(ScoreConfig(data=str(data), model=str(model), out=tmp_path / f"set{number}"))
        ids += open_scores(tmp_path / f"set{number}").take([0]).column("gc_id").to_pylist()
    assert len(set(ids)) == 1

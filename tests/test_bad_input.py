"""Bad input of every kind through the real command, and its exact sentence.

Longer than other files because it is mostly one table: split, a reader would have to look in two places.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import tiny
from command import run, tree

GOOD = [{"prompt": "how many apples?", "answer": "3"}, {"prompt": "how many pears?", "answer": "4"}]
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
NO_SYSTEM += "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


# Name of the data file, its bytes, extra options, the sentence. {F} is the file, {D} its folder.
FILES: dict[str, tuple[str, bytes, list[str], str]] = {
    "empty file": ("a.jsonl", b"", [], "{F} is empty."),
    "no rows": ("a.jsonl", b"\n\n", [], "{F} holds no rows."),
    "unknown ending": (
        "a.txt",
        b"x",
        [],
        "{F}: cannot tell the format from its name; the endings read are .json, .jsonl, .json.gz, .jsonl.gz, "
        ".parquet, .arrow, .csv, .csv.gz.",
    ),
    "broken JSON": (
        "a.jsonl",
        lines(*GOOD) + b'{"prompt": "x" "y"}\n',
        [],
        "{F}, line 3: broken JSON (Expecting ',' delimiter, column 16). A .json or .jsonl file holds "
        "one object per line, or one array of objects.",
    ),
    "a line that is no object": (
        "a.jsonl",
        lines(*GOOD) + b"[1]\n",
        [],
        "{F}, line 3: holds list where an object (one row) is expected.",
    ),
    "an array item that is no object": (
        "a.json",
        b'[{"prompt": "x"}, 3]',
        [],
        "{F}, item 2: holds int where an object (one row) is expected.",
    ),
    "not UTF-8": (
        "a.jsonl",
        lines(GOOD[0]) + '{"prompt": "café"}\n'.encode("latin-1"),
        [],
        "{F}, line 2: byte 16 is not UTF-8. Convert the file first, for instance with `iconv -t UTF-8`.",
    ),
    "half a surrogate pair": (
        "a.jsonl",
        lines(GOOD[0]) + b'{"prompt": "\\ud800"}\n',
        [],
        "{F}, line 2: column 'prompt' holds half of a surrogate pair, which is no valid text.",
    ),
    "mixed types": (
        "a.jsonl",
        lines({"prompt": "x", "level": 1}, {"prompt": "y", "level": "two"}),
        [],
        "{F}, line 2: column 'level' mixes types: \"two\" after int64 before. One column, one type: convert it, "
        "or leave the column out.",
    ),
    "truncated gzip": (
        "a.jsonl.gz",
        gzip.compress(lines(*GOOD) * 50)[:40],
        [],
        "{F} is no readable gzip file: Compressed file ended before the end-of-stream marker was reached.",
    ),
    "CSV with a ragged row": (
        "a.csv",
        b"prompt,answer\nx,1\ny,2,3\n",
        [],
        "{F} is no readable CSV file: CSV parse error: Row #3: Expected 2 columns, got 3: y,2,3.",
    ),
    "CSV with a repeated column": (
        "a.csv",
        b"prompt,prompt\nx,1\n",
        [],
        "{F}: the header names column 'prompt' twice; rename one.",
    ),
    "no prompt column": (
        "a.jsonl",
        lines({"text": "x", "n": 1}),
        [],
        "no column looks like the prompt; name it with --prompt-column. The columns are: text (string), "
        "n (int64).",
    ),
    "two prompt columns": (
        "a.jsonl",
        lines({"problem": "x", "question": "y"}),
        [],
        "problem and question could each be the prompt; name it with --prompt-column. The columns are: "
        "problem (string), question (string).",
    ),
    "wrong prompt column": (
        "a.jsonl",
        lines(*GOOD),
        ["--prompt-column", "promt"],
        "there is no column 'promt' (--prompt-column); the columns are: prompt (string), answer (string); near it "
        "there is prompt.",
    ),
    "prompt column of another type": (
        "a.jsonl",
        lines({"prompt": 3}),
        ["--prompt-column", "prompt"],
        "column 'prompt' holds int64, not text or chat messages (a list of {role, content}); choose another with "
        "--prompt-column.",
    ),
    "wrong answer column": (
        "a.jsonl",
        lines(*GOOD),
        ["--answer-column", "gold"],
        "there is no column 'gold' (--answer-column); the columns are: prompt (string), answer (string).",
    ),
    "repeated id": (
        "a.jsonl",
        lines({"prompt": "x", "id": 7}, {"prompt": "y", "id": 8}, {"prompt": "z", "id": 7}),
        ["--id-column", "id"],
        "id column 'id' has the same value in rows 0 and 2 (from 0); ids must be unique. Choose another "
        "--id-column, or none to have ids made.",
    ),
    "null id": (
        "a.jsonl",
        lines({"prompt": "x", "id": 7}, {"prompt": "y", "id": None}),
        ["--id-column", "id"],
        "id column 'id' is null in row 1 (from 0); every row needs an id.",
    ),
    "parquet of no rows": (
        "a.parquet",
        parquet(pa.table({"prompt": pa.array([], pa.string())})),
        [],
        "{F} holds no rows.",
    ),
    "--system on a row with its own": (
        "a.jsonl",
        lines({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}),
        ["--system", "be brief"],
        "row 0 (from 0, id {ID}) cannot be scored: the row has a system message of its own and --system gives "
        "another; add --system-override to replace it. Fix the row, or add --on-error skip to list such rows in "
        "rejected.jsonl.",
    ),
}

ROWS: dict[str, tuple[Any, str]] = {
    "null prompt": (None, "the prompt is null"),
    "empty prompt": ("", "the prompt is empty"),
    "white space": (" \n\t", "the prompt is empty"),
}

CHATS: dict[str, tuple[Any, str]] = {
    "no message": ([], "the message list is empty"),
    "no user": ([{"role": "system", "content": "x"}], "there is no user message"),
    "empty question": ([{"role": "user", "content": "  "}], "the question is empty"),
    "null content": ([{"role": "user", "content": None}], "the question is empty"),
    "no role": ([{"role": None, "content": "x"}], "message 0 has no role"),
}

OPTIONS: dict[str, tuple[list[str], str]] = {
    "device": (["--device", "tpu"], "--device tpu: expected auto, cpu, cuda or cuda:N."),
    "float16 on a CPU": (
        ["--dtype", "float16", "--device", "cpu"],
        "--dtype float16 is for GPUs; on a CPU use float32 or bfloat16.",
    ),
    "batch tokens": (
        ["--batch-tokens", "many"],
        "--batch-tokens many: expected auto or a number from 1.",
    ),
    "no batch tokens": (["--batch-tokens", "0"], "--batch-tokens 0: expected auto or a number from 1."),
    "shard": (["--shard", "3/2"], "--shard 3/2: expected I/N with I from 1 to N, such as 1/4, or auto."),
    "shard of no numbers": (
        ["--shard", "one"],
        "--shard one: expected I/N with I from 1 to N, such as 1/4, or auto.",
    ),
    "overwrite and shard": (
        ["--shard", "1/2", "--overwrite"],
        "--overwrite and --shard do not go together: each process would delete the others' shards. Delete the "
        "folder first.",
    ),
    "layer": (["--layer", "3"], "--layer 3: the model has layers 0 to 2 (or -3 to -1)."),
    "layer of the final norm": (
        ["--layer", "1", "--site", "final_norm"],
        "--layer 1 goes with --site mlp_input; final_norm stands after the last layer.",
    ),
    "length": (
        ["--max-length", "9000"],
        "--max-length 9000 is over the 512 positions that {M} was made for; its states after them mean nothing.",
    ),
    "template arguments": (
        ["--template-kwargs", "yes"],
        "--template-kwargs 'yes': expected a JSON object, such as {\"enable_thinking\": false}.",
    ),
    "template arguments that are too deep": (
        ["--template-kwargs", '{"a": ' + "[" * 100 + "]" * 100 + "}"],
        '--template-kwargs \'{"a": ' + "[" * 100 + "]" * 93 + ": expected a JSON object, such as "
        '{"enable_thinking": false} (lists or objects stand more than 64 deep inside each other).',
    ),
    "template arguments that nothing equals": (
        ["--template-kwargs", '{"a": [NaN]}'],
        "--template-kwargs {'a': [nan]}: it holds NaN or infinity, which JSON does not have.",
    ),
    "system file": (["--system", "@{D}/none"], "--system: cannot read {D}/none: no such file or directory."),
    "shots file": (["--shots", "{D}/none"], "--shots: cannot read {D}/none: no such file or directory."),
    "overlong": (
        ["--max-length", "8"],
        "row 0 (from 0, id {ID}) cannot be scored: the prompt has {N} tokens and the limit is 8. Add "
        "--on-overlong skip to list such rows in rejected.jsonl.",
    ),
}

CHOICES = [
    ["--dtype", "int8"],
    ["--site", "attention"],
    ["--on-error", "ignore"],
    ["--on-overlong", "cut"],
    ["--limit", "0"],
    ["--shard-rows", "0"],
    ["--nonsense"],
]


def check(stderr: str, sentence: str, **places: object) -> None:
    pattern = re.escape(sentence)
    for name, value in places.items():
        pattern = pattern.replace(re.escape(f"{{{name}}}"), re.escape(str(value)))
    pattern = pattern.replace(re.escape("{ID}"), "[0-9a-f]{32}").replace(re.escape("{N}"), r"\d+")
    last = stderr.strip().splitlines()[-1]
    assert re.fullmatch(f"error: {pattern}", last), last
    assert "Traceback" not in stderr


@pytest.mark.parametrize("case", FILES, ids=str)
def test_a_bad_file_gives_one_sentence_and_leaves_nothing(
    case: str, tmp_path: Path, tiny_model: Path
) -> None:
    name, content, options, sentence = FILES[case]
    path, out = tmp_path / name, tmp_path / "out"
    path.write_bytes(content)
    result = run("score", path, "-m", tiny_model, "-o", out, *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    check(result.stderr, sentence, F=path, D=tmp_path)
    assert not out.exists() or "manifest.json" not in tree(out)
    if case not in {"--system on a row with its own"}:
        assert not out.exists()


@pytest.mark.parametrize("case", [*ROWS, *CHATS], ids=str)
def test_a_bad_row_is_named_or_rejected(case: str, tmp_path: Path, tiny_model: Path) -> None:
    value, reason = (ROWS | CHATS)[case]
    good: Any = "how many?" if case in ROWS else [{"role": "user", "content": "how many?"}]
    path = tiny.write_jsonl(tmp_path / "a.jsonl", [{"prompt": good}, {"prompt": value}])
    out = tmp_path / "out"
    result = run("score", path, "-m", tiny_model, "-o", out)
    assert result.exit_code == 2
    sentence = (
        f"row 1 (from 0, id {{ID}}) cannot be scored: {reason}. Fix the row, or add --on-error skip to list "
    )
    check(result.stderr, sentence + "such rows in rejected.jsonl.")
    assert not list(out.glob("shard-*")), "a shard was written for rows that were not all scored"

    result = run("score", path, "-m", tiny_model, "-o", out, "--on-error", "skip", "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["rejected"]) == (1, 1)
    rejected = json.loads((out / "rejected.jsonl").read_text())
    assert (rejected["row"], rejected["reason"]) == (1, reason)


@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_a_bad_option_gives_one_sentence(
    case: str, tmp_path: Path, tiny_model: Path, rows_file: Path
) -> None:
    options, sentence = OPTIONS[case]
    given = [option.replace("{D}", str(tmp_path)) for option in options]
    result = run("score", rows_file, "-m", tiny_model, "-o", tmp_path / "out", *given)
    assert result.exit_code == 2
    check(result.stderr, sentence, M=tiny_model, D=tmp_path)
    assert not list((tmp_path / "out").glob("shard-*"))


@pytest.mark.parametrize("options", CHOICES, ids=lambda options: " ".join(options))
def test_an_unknown_choice_names_itself(options: list[str], tmp_path: Path, rows_file: Path) -> None:
    result = run("score", rows_file, "-m", "demo", "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


SHOTS = {
    "{": "--shots {F}: broken JSON in line 1 (Expecting property name enclosed in double quotes); expected a list of "
    "chat messages.",
    '[{"role": "assistant", "content": "x"}]': "--shots {F}: expected a JSON list of messages, user and assistant in "
    'turn: [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].',
}


@pytest.mark.parametrize("content", SHOTS, ids=["broken", "order"])
def test_bad_examples_are_refused(content: str, tmp_path: Path, tiny_model: Path, rows_file: Path) -> None:
    shots = tmp_path / "shots.json"
    shots.write_text(content)
    result = run("score", rows_file, "-m", tiny_model, "-o", tmp_path / "out", "--shots", shots)
    assert result.exit_code == 2
    check(result.stderr, SHOTS[content], F=shots)


def model_cases(folder: Path) -> dict[str, tuple[Path, str]]:
    def empty() -> Path:
        (folder / "empty").mkdir()
        return folder / "empty"

    def no_weights() -> Path:
        made = tiny.save_model(folder / "bare")
        (made / "model.safetensors").unlink()
        return made

    def pickled() -> Path:
        made = tiny.save_model(folder / "pickled")
        (made / "model.safetensors").unlink()
        torch.save({}, made / "pytorch_model.bin")
        return made

    def lora() -> Path:
        (folder / "lora").mkdir()
        (folder / "lora/adapter_config.json").write_text("{}")
        return folder / "lora"

    def not_gguf() -> Path:
        (folder / "x.gguf").write_bytes(b"nope")
        return folder / "x.gguf"

    def other_file() -> Path:
        (folder / "x.pt").write_bytes(b"nope")
        return folder / "x.pt"

    makers: dict[str, tuple[Callable[[], Path], str]] = {
        "empty": (empty, "model folder {M} has no config.json."),
        "no weights": (
            no_weights,
            "model folder {M} has no weights: no *.safetensors file is in it. Is the checkpoint complete, or saved in "
            "a trainer's own sharded format?",
        ),
        "pickled": (
            pickled,
            "{M} has only pickled weights (pytorch_model.bin), which run code when they are loaded; convert them to "
            "safetensors, or pass --allow-pickle if you trust them.",
        ),
        "lora": (
            lora,
            "model folder {M} has no config.json. It holds a LoRA adapter: merge that into its base model first.",
        ),
        "not gguf": (
            not_gguf,
            "{M} is empty, cut short or damaged. Copy or download it again.",
        ),
        "other file": (
            other_file,
            "--model {M} is a file but no .gguf; give the folder with config.json and the weights.",
        ),
        "absent path": (lambda: folder / "none/at/all", "--model {M} does not exist."),
    }
    return {name: (maker(), sentence) for name, (maker, sentence) in makers.items()}


def test_a_model_that_cannot_be_used_gives_one_sentence(tmp_path: Path, rows_file: Path) -> None:
    for model, sentence in model_cases(tmp_path).values():
        result = run("score", rows_file, "-m", model, "-o", tmp_path / "out")
        assert result.exit_code == 2
        check(result.stderr, sentence, M=model)
        assert not (tmp_path / "out").exists()


def test_an_unknown_hub_model_offline_says_what_was_tried(tmp_path: Path, rows_file: Path) -> None:
    result = run("score", rows_file, "-m", "nobody/nothing", "-o", tmp_path / "out")
    assert result.exit_code == 2
    check(
        result.stderr,
        "--model nobody/nothing is no file or folder here, not in the Hub cache, and the Hub was not reached (offline, "
        "or HF_HUB_OFFLINE is set). Give a local folder, or `--model demo`.",
    )


def test_a_template_that_refuses_a_system_message_says_so_at_once(tmp_path: Path, rows_file: Path) -> None:
    model = tiny.save_model(tmp_path / "gemma", template=NO_SYSTEM)
    result = run("score", rows_file, "-m", model, "-o", tmp_path / "out", "--system", "be brief")
    assert result.exit_code == 2
    check(
        result.stderr,
        "the chat template cannot render the prompt: the chat template refused the messages (no system role). Leave "
        "out --system or --shots if it does not allow them, or check --template-kwargs.",
    )


def test_a_template_that_writes_what_is_no_text_says_so_at_once(tmp_path: Path, rows_file: Path) -> None:
    model = tiny.save_model(tmp_path / "half", template="{{ '\\ud800' }}{{ messages[-1].content }}")
    result = run("score", rows_file, "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "the chat template writes half of a surrogate pair" in result.stderr


def test_a_model_without_a_template_has_no_place_for_a_system_message(
    tmp_path: Path, rows_file: Path
) -> None:
    model = tiny.save_model(tmp_path / "base", template=None)
    result = run("score", rows_file, "-m", model, "-o", tmp_path / "out", "--system", "be brief")
    assert result.exit_code == 2
    check(
        result.stderr,
        "this model's tokenizer has no chat template, so --system and --shots have no place; leave them out, or take "
        "the instruction-tuned model.",
    )

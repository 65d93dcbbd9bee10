"""Bad input through the real command: the exact sentence, the exit code, and no set. Most sentences are tested lower."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tiny
from command import run, tree
from gaincurate.errors import ModelError
from gaincurate.scoring.segment import Segmenter

GOOD = [{"prompt": "how many apples?", "answer": "3"}, {"prompt": "how many pears?", "answer": "4"}]
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
NO_SYSTEM += "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# Name of the data file, its bytes, extra options, the sentence. {F} is the file, {D} its folder.
FILES: dict[str, tuple[str, bytes, list[str], str]] = {
    "empty file": ("a.jsonl", b"", [], "{F} is empty."),
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
    "wrong prompt column": (
        "a.jsonl",
        lines(*GOOD),
        ["--prompt-column", "promt"],
        "there is no column 'promt' (--prompt-column); the columns are: prompt (string), answer (string); near it "
        "there is prompt.",
    ),
    "repeated id": (
        "a.jsonl",
        lines({"prompt": "x", "id": 7}, {"prompt": "y", "id": 8}, {"prompt": "z", "id": 7}),
        ["--id-column", "id"],
        "id column 'id' has the same value in rows 0 and 2 (from 0); ids must be unique. Choose another "
        "--id-column, or none to have ids made.",
    ),
}

# Prompts that are refused, and why; the first row of the file is a good one of the same type.
ROWS: dict[str, tuple[Any, str]] = {
    "null prompt": (None, "the prompt is null"),
    "no user": ([{"role": "system", "content": "x"}], "there is no user message"),
}

OPTIONS: dict[str, tuple[list[str], str]] = {
    "overwrite and shard": (
        ["--shard", "1/2", "--overwrite"],
        "--overwrite and --shard do not go together: each process would delete the others' shards. Delete the "
        "folder first.",
    ),
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
    "template arguments that nothing equals": (
        ["--template-kwargs", '{"a": [NaN]}'],
        "--template-kwargs {'a': [nan]}: it holds NaN or infinity, which JSON does not have.",
    ),
    "system file": (["--system", "@{D}/none"], "--system: cannot read {D}/none: no such file or directory."),
    "overlong": (
        ["--max-length", "8"],
        "row 0 (from 0, id {ID}) cannot be scored: the prompt has {N} tokens and the limit is 8. Add "
        "--on-overlong skip to list such rows in rejected.jsonl.",
    ),
}


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
    assert (result.exit_code, result.stdout) == (2, "")
    check(result.stderr, sentence, F=path, D=tmp_path)
    assert not out.exists()


def test_a_row_with_a_system_message_of_its_own_needs_an_option(tmp_path: Path, tiny_model: Path) -> None:
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    path = tiny.write_jsonl(tmp_path / "a.jsonl", [{"prompt": prompt}])
    result = run("score", path, "-m", tiny_model, "-o", tmp_path / "out", "--system", "be brief")
    check(
        result.stderr,
        "row 0 (from 0, id {ID}) cannot be scored: the row has a system message of its own and --system gives "
        "another; add --system-override to replace it. Fix the row, or add --on-error skip to list such rows in "
        "rejected.jsonl.",
    )
    assert "manifest.json" not in tree(tmp_path / "out")


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_a_bad_row_is_named_or_rejected(case: str, tmp_path: Path, tiny_model: Path) -> None:
    value, reason = ROWS[case]
    good: Any = "how many?" if value is None else [{"role": "user", "content": "how many?"}]
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


def test_examples_in_the_wrong_order_are_refused(tmp_path: Path, tiny_model: Path, rows_file: Path) -> None:
    shots = tmp_path / "shots.json"
    shots.write_text('[{"role": "assistant", "content": "x"}]')
    result = run("score", rows_file, "-m", tiny_model, "-o", tmp_path / "out", "--shots", shots)
    assert result.exit_code == 2
    check(
        result.stderr,
        "--shots {F}: expected a JSON list of messages, user and assistant in turn: "
        '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].',
        F=shots,
    )


@pytest.mark.parametrize(
    ("template", "system", "sentence"),
    [
        (
            NO_SYSTEM,
            "be brief",
            "cannot render the prompt: the chat template refused the messages (no system role)",
        ),
        (
            "{{ '\\ud800' }}{{ messages[-1].content }}",
            None,
            "the chat template writes half of a surrogate pair",
        ),
        (None, "be brief", "has no chat template, so --system and --shots have no place"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_at_once(
    template: str | None, system: str | None, sentence: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(sentence)):
        Segmenter(tiny.tokenizer(template), system=system)

"""Bad input through the real command: one sentence, the exit code, and no set. Most sentences are tested lower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny
from command import run, tree
from gaincurate.errors import ModelError
from gaincurate.scoring.segment import Segmenter

GOOD = [{"prompt": "how many apples?", "id": 1}, {"prompt": "how many pears?", "id": 1}]
OWN_SYSTEM = [{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}]
CASES: dict[str, tuple[list[dict[str, Any]], list[str], str]] = {
    "system of a row": (
        OWN_SYSTEM,
        ["--system", "x"],
        "the row has a system message of its own and --system",
    ),
    "overwrite": (GOOD, ["--shard", "1/2", "--overwrite"], "--overwrite and --shard do not go together"),
    "layer": (GOOD, ["--layer", "1", "--site", "final_norm"], "--layer 1 goes with --site mlp_input"),
    "length": (GOOD, ["--max-length", "9000"], "--max-length 9000 is over the 512 positions"),
    "template": (GOOD, ["--template-kwargs", "yes"], "--template-kwargs 'yes': expected a JSON object"),
    "NaN": (GOOD, ["--template-kwargs", '{"a": [NaN]}'], "it holds NaN or infinity"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_leaves_no_set(case: str, tmp_path: Path, tiny_model: Path) -> None:
    rows, options, sentence = CASES[case]
    path = tiny.write_jsonl(tmp_path / "a.jsonl", rows)
    result = run("score", path, "-m", tiny_model, "-o", tmp_path / "out", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence in last
    assert "manifest.json" not in tree(tmp_path / "out")


def test_a_file_of_an_unknown_kind_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    result = run("score", tmp_path / "a.txt", "-m", tiny_model, "-o", tmp_path / "out")
    assert "cannot tell the format from its name; the endings read are .json, .jsonl, " in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_bad_row_is_named(tmp_path: Path, tiny_model: Path) -> None:
    path, out = tiny.write_jsonl(tmp_path / "a.jsonl", [*GOOD[:1], {"prompt": None}]), tmp_path / "out"
    result = run("score", path, "-m", tiny_model, "-o", out)
    assert result.exit_code == 2
    assert "cannot be scored: the prompt is null. Fix the row, or add --on-error skip" in result.stderr
    assert not list(out.glob("shard-*")), "a shard was written for rows that were not all scored"


def test_a_template_that_writes_no_text_is_refused_at_once() -> None:
    with pytest.raises(ModelError, match="the chat template writes half of a surrogate pair"):
        Segmenter(tiny.tokenizer("{{ '\\ud800' }}{{ messages[-1].content }}"))

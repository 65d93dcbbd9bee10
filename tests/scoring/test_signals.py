"""NLL and entropy in a scored set: through the command line, with workers, resumed, refused, and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

import gaincurate
import likelihoods as oracle
import tiny
from command import run
from gaincurate.core.schema import EMBEDDING, LIKELIHOODS
from gaincurate.scoring.segment import Segmented

ALL = ("--signals", "angle,nll,entropy,embedding")
pytestmark = pytest.mark.usefixtures("one_thread")


def score(data: Path, model: Path, out: Path, *more: object) -> Any:
    return run("score", data, "-m", model, "-o", out, "--shard-rows", "16", *more)


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rows with every signal; do not write into it."""
    folder = tmp_path_factory.mktemp("whole")
    data = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(40))
    result = score(data, tiny_model, folder / "set", *ALL)
    assert result.exit_code == 0, result.stderr
    return folder / "set"


@pytest.mark.parametrize("more", [(), ("--site", "final_norm"), ("--layer", "0", "--batch-tokens", "40")])
def test_the_stored_values(tmp_path: Path, tiny_model: Path, rows_file: Path, more: tuple[str, ...]) -> None:
    assert score(rows_file, tiny_model, tmp_path / "out", *ALL, *more).exit_code == 0
    scored = gaincurate.open_scores(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    exact = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tiny_model)
    for row in scored.take([3, 17, 30, 39]).to_pylist():
        message = [{"role": "user", "content": row["question"]}]
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"]
        end = row["gc_prefix_tokens"] + row["gc_question_tokens"]
        prompt = Segmented(np.array(ids, np.int32), row["gc_prefix_tokens"], end)
        assert end < len(ids) == row["gc_prompt_tokens"]
        with torch.no_grad():
            states = exact(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
        mean = states[0, row["gc_prefix_tokens"] : end].mean(0).numpy()
        np.testing.assert_allclose(row[EMBEDDING], mean, rtol=6e-4, atol=2e-5)
        plain = oracle.plain(model, [prompt])[0]
        assert [row[name] for name in LIKELIHOODS] == pytest.approx(plain, abs=1e-4)


def test_each_signal_has_its_columns(tmp_path: Path, tiny_model: Path, rows_file: Path, whole: Path) -> None:
    every = gaincurate.open_scores(whole)
    assert every.schema.names[-4:] == [*LIKELIHOODS, EMBEDDING]
    assert [every.schema.field(name).type for name in LIKELIHOODS] == [pa.float32()] * 3
    added = {"angle": [], "angle,nll": ["gc_nll"], "entropy,angle": list(LIKELIHOODS[1:])}
    for signals, names in added.items():
        assert score(rows_file, tiny_model, tmp_path / signals, "--signals", signals).exit_code == 0
        found = gaincurate.open_scores(tmp_path / signals)
        assert [n for n in found.schema.names if n in (*LIKELIHOODS, EMBEDDING)] == names
        for name in found.schema.names:
            if pa.types.is_floating(found.schema.field(name).type):
                np.testing.assert_allclose(found.column(name), every.column(name), rtol=0, atol=1e-5)
            else:
                assert found.column(name).equals(every.column(name))


def test_the_angle_and_the_embedding_never_load_the_head(
    tmp_path: Path, tiny_model: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("the head was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", never)
    assert score(rows_file, tiny_model, tmp_path / "out", "--signals", "angle,embedding").exit_code == 0
    assert "the head was loaded" in score(rows_file, tiny_model, tmp_path / "other", *ALL).stderr


def test_a_question_that_is_the_sequences_first_token_has_no_nll(tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", template=None)
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "many apples"}])
    assert "no chat template, so prompts are scored as" in score(data, model, tmp_path / "out", *ALL).stderr
    found = gaincurate.open_scores(tmp_path / "out")
    assert found.column("gc_question_tokens")[0].as_py() == 1
    for name in ("gc_nll", "gc_entropy"):
        assert found.column(name).is_null().to_pylist() == [True, False]
    assert found.column("gc_last_entropy").null_count == 0
    assert run("show", tmp_path / "out").exit_code == 0


def test_values_that_are_not_finite_follow_on_error(tmp_path: Path, rows_file: Path) -> None:
    made = tiny.model(transformers.LlamaConfig(**tiny.COMMON))
    with torch.no_grad():
        made.lm_head.weight[7] = torch.inf  # every state's logits, but no state
    made.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    command = (rows_file, tmp_path / "model", tmp_path / "out", "--signals", "angle,nll")
    result, reason = score(*command), "its NLL or entropy is not finite"
    assert result.exit_code == 2
    assert f"cannot be scored: {reason}. Fix the row, or add --on-error skip" in result.stderr
    assert score(rows_file, tmp_path / "model", tmp_path / "angle").exit_code == 0
    assert score(*command, "--on-error", "skip").exit_code == 2, "no row was scored"
    lines = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == [reason] * 40
    assert gaincurate.open_scores(tmp_path / "out").schema.field("gc_nll").type == pa.float32()


def test_a_shard_without_a_row_has_the_column_and_others_join_it(tmp_path: Path, tiny_model: Path) -> None:
    rows = tiny.questions(20)
    for row in rows[:16]:
        row["question"] = " "
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    options = ("--signals", "angle,embedding", "--on-error", "skip")
    assert score(data, tiny_model, tmp_path / "out", *options).exit_code == 0
    found = gaincurate.open_scores(tmp_path / "out")
    assert [len(table) for table in found.tables()] == [0, 4]
    assert len(found.column(EMBEDDING)) == 4


def test_signals_without_the_angle_and_others_are_refused(tmp_path: Path) -> None:
    always = "--signals nll,entropy: angle is always computed; write angle,nll,entropy."
    for value, said in (
        ("loss", "should be 'angle', 'nll', 'entropy' or 'embedding'"),
        ("nll,entropy", always),
    ):
        result = run("score", "rows.jsonl", "-m", "m", "-o", tmp_path / "out", "--signals", value)
        assert (result.exit_code, said in result.stderr) == (2, True)


def test_a_tail_outside_the_vocabulary_is_refused_only_where_tails_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<|end|>"
    tiny.model(transformers.LlamaConfig(**{**tiny.COMMON, "vocab_size": 339})).save_pretrained(folder)
    tokenizer = tiny.tokenizer(template)
    assert len(tokenizer) == 339
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.save_pretrained(folder)
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "many apples"}])
    assert score(data, folder, tmp_path / "nll", "--signals", "angle,nll").exit_code == 0
    result = score(data, folder, tmp_path / "entropy", "--signals", "angle,entropy")
    assert result.exit_code == 2
    assert "token 339 is outside the model's vocabulary of 339" in result.stderr

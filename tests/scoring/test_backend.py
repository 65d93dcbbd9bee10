"""The choice of the angle code, from the command to the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import gaincurate
import tiny
from command import run

pytestmark = [
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),  # Triton's interpreter
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
]


def column(folder: Path, name: str) -> Any:
    return gaincurate.open_scores(folder).column(name).to_pylist()


@pytest.mark.parametrize("site", ["mlp_input", "final_norm"])
def test_backends_give_equal_scores(tmp_path: Path, tiny_model: Path, rows_file: Path, site: Any) -> None:
    for backend in ("torch", "triton"):
        options = {"backend": backend, "site": site, "limit": 6}
        gaincurate.score(str(rows_file), str(tiny_model), tmp_path / backend, **options)
        manifest = gaincurate.open_scores(tmp_path / backend).manifest
        assert manifest["identity"]["backend"] == backend
        assert manifest["identity"]["fused_norm"] == "rms"
        assert manifest["norm_was_fused"] is True
    for name in ("gc_angle", "gc_angle_intra", "gc_angle_inter", "gc_angle_intra_offdiag"):
        assert column(tmp_path / "triton", name) == pytest.approx(column(tmp_path / "torch", name), abs=1e-6)


def test_zero_vectors_are_counted_in_the_manifest_and_said(tmp_path: Path, rows_file: Path) -> None:
    made = tiny.model(transformers.LlamaConfig(**tiny.COMMON))
    torch.nn.init.zeros_(made.model.layers[-1].post_attention_layernorm.weight)
    made.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    score = ("score", rows_file, "-m", tmp_path / "model", "-o")
    result = run(*score, tmp_path / "out", "--limit", "5")
    names = ("gc_prefix_tokens", "gc_question_tokens")
    tokens = sum(sum(column(tmp_path / "out", name)) for name in names)
    assert gaincurate.open_scores(tmp_path / "out").manifest["zero_vectors"] == tokens
    assert set(column(tmp_path / "out", "gc_angle")) == {0.0}
    again = run(*score, tmp_path / "b", "--reuse", tmp_path / "out")
    assert "0 with scores from --reuse" in again.stdout  # zero vectors are counted by shard, not by row
    sentence = f"{tokens:,} scored tokens have a zero vector as hidden state: they count as tokens and add"
    assert sentence in result.stdout
    assert sentence in run("show", tmp_path / "out").stdout

from __future__ import annotations

import pytest
import torch
import transformers

import tiny
from bench import kernel_speed as bench
from bench.score_speed import gemm_operations, made_up_prompts, measure
from gaincurate.scoring.prefill import Prefill
from gaincurate_kernels.reference import quadratic


def states() -> torch.Tensor:
    return torch.randn(96, 48, generator=torch.Generator().manual_seed(0)) + 0.3


@pytest.mark.parametrize("way", ["linear", "matrix in float32", "matrix in bfloat16"])
def test_what_we_are_compared_with_computes_the_same(way: str) -> None:
    dtype = torch.bfloat16 if "bfloat16" in way else torch.float32
    intra, inter = bench.linear(states(), 32) if way == "linear" else bench.pairwise(states(), dtype, 32)
    for row in range(3):
        expected = quadratic(states()[32 * row : 32 * row + 32], 8, 32)
        got = (float(intra[row]), float(inter[row]))
        assert got == pytest.approx(expected[:2], abs=1e-6 if dtype == torch.float32 else 5e-3)


def test_every_way_is_timed_and_a_shared_prefix_is_not_counted_again() -> None:
    model = tiny.model(transformers.LlamaConfig(**tiny.COMMON)).base_model
    before = model.config._attn_implementation
    prompts = made_up_prompts(12, prefix=20, vocab_size=512)
    slow, padded, packed = ways = measure(model, prompts, budget=256, passes=2, one_by_one=3)
    assert [way["method"] for way in ways] == ["one prompt at a time", "padded batches", "packed"]
    assert slow["times"] == 1
    whole, own = sum(p.end for p in prompts), sum(p.question_tokens for p in prompts)
    assert padded["tokens/s"] / padded["rows/s"] == pytest.approx(whole / 12)
    # The prefix was run in the pass before, which is not timed.
    assert packed["tokens/s"] / packed["rows/s"] == pytest.approx(own / 12)
    assert all(0 < way["of_gemm"] < 3 for way in (padded, packed))
    assert model.config._attn_implementation == before


def test_operations_are_those_of_the_linear_layers_up_to_the_site() -> None:
    model = tiny.model(transformers.LlamaConfig(**tiny.COMMON)).base_model
    (prompt,) = made_up_prompts(1, prefix=4, vocab_size=512)
    attention, feed_forward = 2 * (32 * 32 * 2 + 32 * 16 * 2), 2 * 3 * 32 * 48
    assert gemm_operations(Prefill(model), prompt) == 3 * attention + 2 * feed_forward
    assert gemm_operations(Prefill(model, site="final_norm"), prompt) == 3 * (attention + feed_forward)

from __future__ import annotations

import pytest
import transformers

import tiny
from bench.score_speed import _gemm_flops, gemm_speeds, made_up_prompts, measure
from gaincurate.scoring.prefill import Prefill


def test_every_way_is_timed_and_a_shared_prefix_is_not_counted_again() -> None:
    model = tiny.model(transformers.LlamaConfig(**tiny.COMMON)).base_model
    before = model.config._attn_implementation
    prompts = made_up_prompts(12, prefix=20, vocab_size=512)
    slow, padded, packed = measure(model, prompts, budget=256, passes=2, one_by_one=3)
    assert [rate.method for rate in (slow, padded, packed)] == [
        "one prompt at a time",
        "padded batches",
        "packed",
    ]
    assert slow.times_one_by_one == 1
    assert (slow.share_of_gemm, slow.peak_gib) == (None, None)
    whole, own = sum(p.end for p in prompts), sum(p.question_tokens for p in prompts)
    assert padded.tokens_per_second / padded.rows_per_second == pytest.approx(whole / 12)
    # The prefix was run in the pass before, which is not timed.
    assert packed.tokens_per_second / packed.rows_per_second == pytest.approx(own / 12)
    for rate in (padded, packed):
        assert rate.share_of_gemm is not None
        assert rate.share_of_fastest is not None
        assert 0 < rate.share_of_fastest <= rate.share_of_gemm
    assert model.config._attn_implementation == before


def test_operations_are_those_of_the_linear_layers_up_to_the_site() -> None:
    model = tiny.model(transformers.LlamaConfig(**tiny.COMMON)).base_model
    (prompt,) = made_up_prompts(1, prefix=4, vocab_size=512)
    attention, feed_forward = 2 * (32 * 32 * 2 + 32 * 16 * 2), 2 * 3 * 32 * 48
    assert _gemm_flops(Prefill(model), prompt) == 3 * attention + 2 * feed_forward
    assert _gemm_flops(Prefill(model, site="final_norm"), prompt) == 3 * (attention + feed_forward)
    plain, fastest = gemm_speeds(model, 64, repeats=1)
    assert 0 < plain <= fastest

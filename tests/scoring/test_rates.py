from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import tiny
from architectures import ARCHITECTURES
from command import run
from gaincurate.errors import GaincurateError, InputError
from gaincurate.scoring.bench import Crew, _gemm_flops, gemm_speeds, made_up_prompts, measure
from gaincurate.scoring.prefill import Prefill


def test_made_up_prompts_share_a_prefix_and_are_as_long_as_real_ones() -> None:
    prompts = made_up_prompts(500, prefix=115, vocab_size=512)
    lengths = np.array([prompt.question_tokens for prompt in prompts])
    assert 55 < np.median(lengths) < 75
    assert 8 <= lengths.min() <= lengths.max() <= 2048
    assert len({prompt.token_ids[:115].tobytes() for prompt in prompts}) == 1
    assert all(prompt.prefix == 115 and len(prompt.token_ids) == prompt.end + 5 for prompt in prompts)
    again = made_up_prompts(500, prefix=115, vocab_size=512)
    assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(prompts, again, strict=True))
    assert max(int(prompt.token_ids.max()) for prompt in prompts) < 512


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
    assert (slow.share_of_gemm, slow.share_in_angle) == (None, None)
    whole, own = sum(p.end for p in prompts), sum(p.question_tokens for p in prompts)
    assert padded.tokens_per_second / padded.rows_per_second == pytest.approx(whole / 12)
    # The prefix was run in the pass before, which is not timed.
    assert packed.tokens_per_second / packed.rows_per_second == pytest.approx(own / 12)
    for rate in (padded, packed):
        assert rate.share_of_gemm is not None
        assert rate.share_in_angle is not None
        assert 0 < rate.share_in_angle < 1
    assert model.config._attn_implementation == before


def test_a_model_that_cannot_be_packed_has_no_such_line() -> None:
    falcon = next(a for a in ARCHITECTURES if a.name == "falcon")
    model = tiny.model(falcon.config()).base_model
    rates = measure(model, made_up_prompts(4, prefix=3, vocab_size=512), budget=256, passes=1, one_by_one=2)
    assert [rate.method for rate in rates] == ["one prompt at a time", "padded batches"]


def test_a_model_without_linear_layers_has_no_share_of_products() -> None:
    gpt = transformers.GPT2Config(
        vocab_size=3, n_embd=32, n_layer=2, n_head=2, n_positions=40, bos_token_id=0, eos_token_id=0
    )
    rows = made_up_prompts(4, prefix=3, vocab_size=3, limit=40)
    assert max(len(row.token_ids) for row in rows) == 40
    rates = measure(tiny.model(gpt).base_model, rows, budget=256, passes=1, one_by_one=2)
    assert {rate.share_of_gemm for rate in rates} == {None}
    assert all(rate.rows_per_second > 0 for rate in rates)
    with pytest.raises(InputError, match=r"--prefix 28 and a question of 8 tokens are past the model's 40"):
        made_up_prompts(4, prefix=28, vocab_size=3, limit=40)


def test_operations_are_those_of_the_linear_layers_up_to_the_site() -> None:
    model = tiny.model(transformers.LlamaConfig(**tiny.COMMON)).base_model
    (prompt,) = made_up_prompts(1, prefix=4, vocab_size=512)
    attention, feed_forward = 2 * (32 * 32 * 2 + 32 * 16 * 2), 2 * 3 * 32 * 48
    assert _gemm_flops(Prefill(model), prompt) == 3 * attention + 2 * feed_forward
    assert _gemm_flops(Prefill(model, site="final_norm"), prompt) == 3 * (attention + feed_forward)
    plain, fastest = gemm_speeds(model, 64, repeats=1)
    assert 0 < plain <= fastest


def test_bench_score_prints_a_table_and_a_sentence(tmp_path: Path, tiny_model: Path) -> None:
    options = (
        "bench",
        "score",
        "-m",
        tiny_model,
        "--rows",
        "6",
        "--prefix",
        "9",
        "--passes",
        "1",
        "--device",
        "cpu",
    )
    result = run(*options, "--csv", tmp_path / "a.csv")
    assert result.exit_code == 0
    assert re.search(r"(packed|padded batches): .* times as many rows a second as a plain", result.stdout)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 4
    found = json.loads(run(*options, "--json").stdout)
    assert (found["rows"], found["prefix_tokens"], found["batch_tokens"]) == (6, 9, 1024)
    assert found["torch"] == torch.__version__


@pytest.mark.slow
def test_bench_score_times_several_workers_and_the_script_in_float32(tiny_model: Path) -> None:
    options = ["bench", "score", "-m", str(tiny_model), "--rows", "6", "--prefix", "9", "--passes", "1"]
    options += ["--dtype", "bfloat16", "--workers", "2", "--device", "cpu"]
    found = json.loads(run(*options, "--json").stdout)["measurements"]
    assert [row["method"] for row in found] == [
        "one prompt at a time",
        "one prompt at a time, float32",
        "padded batches",
        "packed",
        found[-1]["method"],
    ]
    assert found[-1]["method"].startswith("packed, 2 workers of ")
    assert found[-1]["rows_per_second"] > 0
    assert found[-1]["share_of_gemm"] > 0
    # Each worker has its share of the rows and computes the prefix for itself, in the pass before.
    assert found[-1]["tokens_per_second"] / found[-1]["rows_per_second"] == pytest.approx(
        found[-2]["tokens_per_second"] / found[-2]["rows_per_second"]
    )
    assert "times as many as that in float32" in run(*options).stdout


@pytest.mark.slow
def test_a_worker_that_dies_between_two_passes_is_told(tiny_model: Path) -> None:
    prompts = made_up_prompts(4, prefix=3, vocab_size=512)
    with Crew(str(tiny_model), "float32", 2, 1, prompts, 256) as crew:
        assert crew.run()[0] == 4
        process = crew._workers[1]
        process.kill()
        process.join()
        with pytest.raises(GaincurateError, match=r"a worker died \(out of memory, perhaps\); use fewer"):
            crew.run()


@pytest.mark.slow
def test_workers_whose_model_cannot_be_packed_say_so(tmp_path: Path) -> None:
    falcon = next(a for a in ARCHITECTURES if a.name == "falcon")
    tiny.model(falcon.config()).save_pretrained(tmp_path)
    with pytest.raises(GaincurateError, match=r"--workers times the packed forward, which .* does not allow"):
        Crew(str(tmp_path), "float32", 2, 1, made_up_prompts(4, prefix=3, vocab_size=512), 256)

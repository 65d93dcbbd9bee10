"""The forward without padding against the model's own, on every architecture."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import tiny
from architectures import ARCHITECTURES, in_tiers
from gaincurate.scoring import packed_prefill as module
from gaincurate.scoring.packed_attention import UnsupportedAttention
from gaincurate.scoring.packed_prefill import PackedPrefill, prefix_of, shared_prefixes
from gaincurate.scoring.prefill import PackedStates, Prefill, Site, batches_of
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.signals import angle_scores

OWN_WAY = {"falcon"}  # their attention cannot be exchanged


def prompts(seed: int = 0) -> list[Segmented]:
    """Three that share a prefix of 11 tokens, and others; the tiny models' windows are 8."""
    random = np.random.default_rng(seed)
    common = random.integers(3, 500, 11)
    found = []
    for prefix, question in [(0, 7), (11, 1), (4, 23), (11, 12), (1, 40), (11, 30)]:
        tokens = random.integers(3, 500, prefix + question + 3)
        if prefix == 11:
            tokens[:11] = common
        found.append(Segmented(tokens.astype(np.int32), prefix, prefix + question))
    return found


pytestmark = pytest.mark.usefixtures("one_thread")


def made(kind: Any, site: Site = "mlp_input", **options: Any) -> Prefill:
    return Prefill(tiny.model(kind.config()).base_model, site=site, **options)


def scores(states: PackedStates, rows: list[Segmented]) -> list[tuple[float, float | None]]:
    return [(s.angle_intra, s.angle_inter) for s, _ in angle_scores(states, rows) if s is not None]


def gap(a: list[tuple[float, float | None]], b: list[tuple[float, float | None]]) -> float:
    pairs = [pair for one, two in zip(a, b, strict=True) for pair in zip(one, two, strict=True)]
    return max(abs((x or 0) - (y or 0)) for x, y in pairs)


@pytest.mark.parametrize("site", ["mlp_input", "final_norm"])
@pytest.mark.parametrize("kind", in_tiers(ARCHITECTURES))
def test_scores_equal_the_padded_forwards_with_prefixes_shared_and_not(kind: Any, site: Site) -> None:
    prefill, rows = made(kind, site), prompts()
    expected = scores(prefill(rows), rows)
    before = prefill.model.config._attn_implementation  # type: ignore[union-attr]
    if kind.name in OWN_WAY:
        with pytest.raises(UnsupportedAttention, match="does not let its attention be exchanged"):
            PackedPrefill(prefill, rows[:2])
        assert prefill.model.config._attn_implementation == before  # type: ignore[union-attr]
        assert scores(prefill(rows), rows) == expected
        return
    packed = PackedPrefill(prefill, rows[:2])
    shared = shared_prefixes(rows)
    assert len(shared) == 1
    assert gap(expected, scores(packed(rows, shared), rows)) < 1e-5
    assert gap(expected, scores(packed(rows), rows)) < 1e-5
    alone = [scores(packed([row], shared), [row])[0] for row in rows]
    assert gap(expected, alone) < 1e-5


def with_longrope(turn: int) -> Any:
    return tiny.model(tiny.longrope(turn)).base_model


@pytest.mark.parametrize(("packs", "budget"), [(True, 60), (True, 4096), (False, 60)])
@pytest.mark.parametrize(("turn", "long"), [(30, [4, 5]), (28, [2, 4, 5])])
def test_prompts_long_for_longrope_run_apart(packs: bool, budget: int, turn: int, long: list[int]) -> None:
    """Prompt 2 ends at 27 and has 30 tokens with its tail: what counts is the prompt as the model gets it."""
    model, rows = with_longrope(turn), prompts()
    prefill, whole = Prefill(model), Prefill(model, tails=True)
    assert [place for place, row in enumerate(rows) if prefill.is_long(row)] == long
    alone = [scores(whole([row]), [row])[0] for row in rows]
    assert gap(alone, scores(whole(rows), rows)) > 1e-4  # it matters to the others beside a long one
    forward = PackedPrefill(prefill, [rows[0], rows[4]]) if packs else prefill  # tried on both kinds
    found: dict[int, tuple[float, float | None]] = {}
    for batch in forward.run(rows, budget):
        own = [rows[place] for place in batch.places]
        found |= dict(zip(batch.places, scores(batch.states, own), strict=True))
    assert gap(alone, [found[place] for place in range(len(rows))]) < 1e-5


@pytest.mark.parametrize("layer", [0, 1])
def test_an_inner_layer_is_reached(layer: int) -> None:
    prefill, rows = made(ARCHITECTURES[0], layer=layer), prompts()
    expected = scores(prefill(rows), rows)
    assert gap(expected, scores(PackedPrefill(prefill, rows[:2])(rows, shared_prefixes(rows)), rows)) < 1e-5


def test_a_run_covers_every_prompt_within_the_budget_and_runs_a_shared_prefix_once() -> None:
    prefill, rows = made(ARCHITECTURES[0]), prompts()
    expected = scores(prefill(rows), rows)
    packed = PackedPrefill(prefill, rows[:2])
    batches = list(packed.run(rows, 30))
    assert [batch.places for batch in batches] == [[0, 1], [2], [3], [4], [5]]
    assert [len(batch.states.hidden) for batch in batches] == [8, 27, 12, 41, 30]
    assert [batch.tokens for batch in batches] == [8 + 11, 27, 12, 41, 30]
    found = [s for b in batches for s in scores(b.states, [rows[i] for i in b.places])]
    assert gap(expected, found) < 1e-5
    again = [s for b in packed.run(rows, 30) for s in scores(b.states, [rows[i] for i in b.places])]
    assert again == found


def test_a_batch_holds_few_tokens_of_shared_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = prompts(0), prompts(1)
    pairs = [one[1], one[3], other[1], other[3], one[5], one[0]]  # prefixes of 11 tokens, and one of none
    prefill = made(ARCHITECTURES[0])
    expected = scores(prefill(pairs), pairs)
    packed = PackedPrefill(prefill, pairs[:2])
    monkeypatch.setattr(module, "_CACHED_TOKENS", 21)
    batches = list(packed.run(pairs, 1000))
    assert [batch.places for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    found = [s for b in batches for s in scores(b.states, [pairs[i] for i in b.places])]
    assert gap(expected, found) < 1e-5
    monkeypatch.setattr(module, "_CACHED_TOKENS", 22)
    (batch,) = packed.run(pairs, 1000)
    assert batch.places == [0, 1, 2, 3, 4, 5]
    assert gap(expected, scores(batch.states, pairs)) < 1e-5


def test_a_forgotten_prefix_is_run_again_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = prompts()
    packed = PackedPrefill(made(ARCHITECTURES[0]), rows[:2])
    every = {prefix_of(row) for row in rows}
    kept = [scores(packed([row], every), [row]) for row in rows]
    monkeypatch.setattr(module, "_CACHED_TOKENS", 0)
    packed._cached.clear()
    assert [scores(packed([row], every), [row]) for row in rows] == kept
    assert len(packed._cached) == 1


def config(kind: str, **options: Any) -> Any:
    return transformers.AutoConfig.for_model(kind, **{**tiny.COMMON, **options})


SINKS = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}


REFUSED = {
    "its attention takes s_aux": config("gpt_oss", **SINKS),
    "it has layers of linear_attention": config("mamba", state_size=4),
    "it attends in chunks": config("llama", attention_chunk_size=4),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_packed_attention_does_not_do_is_refused_and_changes_nothing(sentence: str) -> None:
    other = REFUSED[sentence]
    prefill = Prefill(transformers.AutoModel.from_config(other).eval(), site="final_norm")
    expected = scores(prefill(prompts()), prompts())
    with pytest.raises(UnsupportedAttention, match=f"^{sentence}$"):
        PackedPrefill(prefill, prompts()[:2])
    assert scores(prefill(prompts()), prompts()) == expected


def test_a_window_that_the_attention_is_not_told_of_is_refused() -> None:
    made = transformers.AutoModel.from_config(transformers.LlamaConfig(**tiny.COMMON)).eval()
    prefill = Prefill(made)
    made.config.sliding_window = 4096  # longer than any prompt here, so that no state would show it
    with pytest.raises(UnsupportedAttention, match="does not say which layers have a sliding window"):
        PackedPrefill(prefill, prompts()[:2])


def test_states_that_differ_from_the_models_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = PackedStates.of(torch.ones(100, 4), [Segmented(np.zeros(100, np.int32), 0, 100)])
    off = plain.hidden.clone()
    off[7] *= 1 + 5e-4  # on average within the tolerance
    with pytest.raises(UnsupportedAttention, match=r"its states differ from a plain forward's by 5\.0e-06"):
        module._compare([plain], replace(plain, hidden=off))
    prefill = made(ARCHITECTURES[0])
    monkeypatch.setattr(module, "_TOLERANCES", {torch.float32: 0.0})
    with pytest.raises(UnsupportedAttention, match=r"its states differ from a plain forward's by \d\.\de-0"):
        PackedPrefill(prefill, prompts()[:2])


LENGTHS = st.lists(st.integers(1, 300), max_size=60)
BUDGET = st.integers(1, 1000)


@given(LENGTHS, BUDGET)
def test_padded_batches_hold_every_place_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = batches_of(lengths, budget, padded=True)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or 0 < len(batch) * max(lengths[place] for place in batch) <= budget


def test_known_groupings() -> None:
    for lengths, budget, batches in [
        ([], 10, []),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([9, 1, 9, 1], 18, [[1, 3], [0, 2]]),
        ([20, 3], 10, [[1], [0]]),
    ]:
        assert batches_of(lengths, budget, padded=True) == batches


@given(LENGTHS, BUDGET)
def test_packed_batches_keep_order_and_budget_and_take_what_fits(lengths: list[int], budget: int) -> None:
    batches = batches_of(lengths, budget)
    assert [place for batch in batches for place in batch] == list(range(len(lengths)))
    for batch in batches:
        assert sum(lengths[place] for place in batch) <= budget or len(batch) == 1
    for batch, after in pairwise(batches):
        assert sum(lengths[place] for place in batch) + lengths[after[0]] > budget

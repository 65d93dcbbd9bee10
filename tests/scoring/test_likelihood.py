"""NLL, entropy and embeddings from the scoring pass against a plain forward of the model, on every architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import likelihoods as oracle
import tiny
from architectures import ARCHITECTURES, Architecture, in_tiers
from gaincurate.scoring.packed_attention import UnsupportedAttention
from gaincurate.scoring.packed_prefill import PackedPrefill, shared_prefixes
from gaincurate.scoring.prefill import PackedStates, Prefill, Site
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.signals import Head, _measured, angle_scores, embeddings, likelihoods

GEMMA2 = next(a for a in ARCHITECTURES if a.kind == "gemma2")
# Heads that do more than multiply; each of these changes the logits by much.
HEADS = [
    replace(GEMMA2, options={**GEMMA2.options, "final_logit_softcapping": 2.0}, label="gemma2_capped"),
    Architecture("granite", options={"logits_scaling": 5.0}),
    Architecture("cohere", "input_layernorm", options={"logit_scale": 0.3}),
    Architecture("llama", options={"tie_word_embeddings": True}, label="llama_tied"),
    Architecture("mixtral", options={"num_local_experts": 4, "output_router_logits": True}, label="mixtral_routers"),
]  # fmt: skip
ALL = [*in_tiers(ARCHITECTURES), *HEADS]


pytestmark = pytest.mark.usefixtures("one_thread")


def prompts() -> list[Segmented]:
    """Three share a prefix of 11 tokens; one has no prefix, one no tail, one is a single token without either."""
    random = np.random.default_rng(0)
    common, found = random.integers(3, 500, 11), []
    for prefix, question, tail in [(0, 7, 3), (11, 1, 3), (4, 23, 0), (11, 12, 3), (1, 40, 3), (0, 1, 0), (11, 9, 5)]:  # fmt: skip
        tokens = random.integers(3, 500, prefix + question + tail)
        tokens[:prefix] = common[:prefix]
        found.append(Segmented(tokens.astype(np.int32), prefix, prefix + question))
    return found


def plain_means(kind: Architecture, whole: Any, rows: Sequence[Segmented]) -> list[np.ndarray[Any, Any]]:
    """What the last norm makes of each question, averaged: one prompt at a time, whole, in float64 where torch has it."""
    experts = any("expert" in name for name, _ in whole.named_modules())  # grouped products are in float32
    exact, seen = whole if experts else copy.deepcopy(whole).double(), list[torch.Tensor]()
    last = exact.base_model.get_submodule(kind.final)
    with torch.no_grad(), last.register_forward_hook(lambda _m, _a, out: seen.append(out)):
        for row in rows:
            exact(input_ids=torch.from_numpy(row.token_ids).long()[None])
    return [out[0, row.prefix : row.end].mean(0).numpy() for row, out in zip(rows, seen, strict=True)]


def see_means(states: PackedStates, expected: Sequence[np.ndarray[Any, Any]]) -> None:
    assert states.final is not None
    found: Any = embeddings(states.final, states.questions)
    assert all(row.dtype == np.float16 for row in found)
    # float16 keeps eleven bits of each number.
    np.testing.assert_allclose(np.stack(found).astype(float), np.stack(expected), rtol=6e-4, atol=2e-5)


def measured(states: PackedStates, rows: Sequence[Segmented], head: Head) -> list[oracle.Values]:
    found = likelihoods(states, rows, head, nll=True, entropy=True)
    assert None not in found
    return [(one.nll, one.entropy, one.last_entropy or 0.0) for one in found if one is not None]


def gap(a: Sequence[oracle.Values], b: Sequence[oracle.Values]) -> float:
    assert [[value is None for value in row] for row in a] == [[value is None for value in row] for row in b]
    return max(abs((x or 0) - (y or 0)) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True))  # fmt: skip


def build(kind: Architecture, **options: Any) -> tuple[Any, Head, Prefill]:
    whole = tiny.model(kind.config())
    return whole, Head(whole, 64), Prefill(whole.base_model, final=True, **options)


@pytest.mark.parametrize("kind", ALL, ids=lambda a: a.name)
def test_nll_entropy_and_means_equal_a_plain_float64_forwards_padded_and_packed(kind: Architecture) -> None:
    rows, whole = prompts(), tiny.model(kind.config())
    expected, means, head = oracle.plain(whole, rows), plain_means(kind, whole, rows), Head(whole, 64)
    # The oracle tells prompts apart, and the one without a predicted token has no mean.
    assert expected[5][:2] == (None, None)
    assert gap(expected[:1], expected[3:4]) > 1e-2

    def see(forward: Callable[[Sequence[Segmented]], PackedStates]) -> PackedStates:
        states = forward(rows)
        see_means(states, means)
        values = measured(states, rows, head)
        assert gap(values, expected) < 1e-4
        assert gap(values, [measured(forward([row]), [row], head)[0] for row in rows]) < 1e-4
        return states

    sites: list[tuple[Site, int]] = [("mlp_input", 0), ("final_norm", -1), ("mlp_input", -1)]
    for site, layer in sites:
        prefill = Prefill(whole.base_model, site=site, layer=layer, final=True, tails=True)
        head.try_on(prefill, rows[:2])
        plain = Prefill(whole.base_model, site=site, layer=layer)
        both = zip(angle_scores(see(prefill), rows), angle_scores(plain(rows), rows), strict=True)
        for (with_tails, _), (without, _) in both:
            assert with_tails is not None
            assert without is not None
            assert with_tails.angle == pytest.approx(without.angle, abs=1e-5)
    try:
        packed = PackedPrefill(prefill, rows[:4])
    except UnsupportedAttention:
        assert kind.name == "falcon"
        return
    for shared in (shared_prefixes(rows), set[bytes]()):
        see(partial(packed, shared=shared))
    # In batches, where some have their prefix from a batch before.
    batched: dict[int, oracle.Values] = {}
    for batch in packed.run(rows, 20):
        values = measured(batch.states, [rows[place] for place in batch.places], head)
        batched |= zip(batch.places, values, strict=True)
    assert gap([batched[place] for place in range(len(rows))], expected) < 1e-4


@pytest.mark.parametrize("rows_at_once", [1, 7, 60])
def test_values_do_not_depend_on_how_many_positions_the_head_takes_at_a_time(rows_at_once: int) -> None:
    rows, (model, head, prefill) = prompts(), build(ARCHITECTURES[0], tails=True)
    states = PackedPrefill(prefill, rows[:2])(rows, shared_prefixes(rows))
    whole, sizes = measured(states, rows, head), list[int]()
    head.rows = rows_at_once
    model.lm_head.register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[1]))
    assert gap(measured(states, rows, head), whole) < 1e-5
    predicted = sum(row.end - max(row.prefix, 1) for row in rows)
    assert sum(sizes) == predicted + len(rows)  # each position that is read, once
    assert max(sizes) <= rows_at_once


def test_what_is_not_finite_is_none_and_its_neighbours_are_as_they_were() -> None:
    rows = prompts()
    _, head, prefill = build(ARCHITECTURES[0], tails=True)
    states = prefill(rows)
    assert states.final is not None
    good = measured(states, rows, head)
    final = states.final.clone()
    final[int(states.questions[3, 0])] = torch.nan
    found = likelihoods(replace(states, final=final), rows, head, nll=True, entropy=True)
    assert [one is None for one in found] == [False, False, False, True, False, False, False]
    assert [(one.nll, one.entropy, one.last_entropy) for one in found if one] == good[:3] + good[4:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sums_over_a_large_vocabulary_are_those_of_float64(dtype: torch.dtype) -> None:
    generator, scales = torch.Generator().manual_seed(0), torch.tensor([[0.0], [1], [4], [12], [1]])
    logits = (torch.randn(5, 151_936, generator=generator) * scales).to(dtype)
    logits[4, 7] = 60  # nearly certain
    tokens = torch.tensor([3, 0, 150_000, 5, 7])
    share = torch.log_softmax(logits.double(), -1)
    loss, entropy = _measured(logits.clone(), tokens, entropy=True)
    assert torch.allclose(loss, -share.gather(-1, tokens[:, None])[:, 0], rtol=0, atol=1e-5)
    assert torch.allclose(entropy, -(share.exp() * share).sum(-1), rtol=0, atol=1e-5)
    assert float(loss.min()) >= 0
    assert float(entropy.min()) >= 0


def test_tokens_that_a_model_can_never_say_have_no_share_in_an_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])
    loss, entropy = _measured(logits.clone(), torch.tensor([0]), entropy=True)
    assert [float(loss), float(entropy)] == pytest.approx([np.log(2)] * 2)
    loss, _ = _measured(logits.clone(), torch.tensor([2]), entropy=False)
    assert float(loss) == np.inf


def test_a_packed_final_state_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    prefill = Prefill(tiny.model(ARCHITECTURES[0].config()).base_model, final=True)
    whole = Prefill.both

    def off(self: Prefill, ids: torch.Tensor, **options: Any) -> Any:
        states, final = whole(self, ids, **options)
        return states, final if final is None or not options else final * 1.01

    monkeypatch.setattr(Prefill, "both", off)
    with pytest.raises(UnsupportedAttention, match="states differ from a plain forward's by"):
        PackedPrefill(prefill, prompts()[:2])


def test_a_mean_that_is_not_finite_or_too_large_for_float16_is_none() -> None:
    final = torch.ones(6, 3)
    final[1, 2], final[3, 0] = torch.nan, 1e9
    found = embeddings(final, torch.tensor([[0, 2], [2, 4], [4, 6]]))
    assert [row is None for row in found] == [True, True, False]

"""Training: what is in a batch, that nothing leaks, and that a known world is learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core.stats import pearson
from gaincurate.difficulty import predictor
from gaincurate.difficulty.config import Recipe
from gaincurate.difficulty.metrics import noise_ceiling
from gaincurate.difficulty.predictor import AdapterShape, Policy, batches, by_references, fit, rate_at, split
from gaincurate.errors import InputError
from synthetic import world

pytestmark = pytest.mark.usefixtures("one_thread")


def policy(rows: list[int], name: str = "p", seed: int = 0) -> Policy:
    random = np.random.default_rng(seed)
    return Policy(name, np.array(rows, np.int64), random.integers(0, 9, len(rows)) / 8)


@given(
    st.lists(st.sets(st.integers(0, 60), min_size=16), min_size=1, max_size=3),
    st.integers(2, 40),
    st.integers(1, 50),
    st.integers(0, 1000),
)
def test_every_observation_is_a_query_once_and_never_its_own_reference(
    rows: list[set[int]], references: int, batch: int, seed: int
) -> None:
    policies = [policy(sorted(own), seed=i) for i, own in enumerate(rows)]
    recipe = Recipe(references=references, batch=batch, seed=seed)
    asked: list[tuple[int, int]] = []
    found = list(batches(policies, recipe, 0))
    for parts in found:
        assert len({number for number, _, _ in parts}) == len(parts)
        assert sum(len(queries) for _, queries, _ in parts) <= batch
        for number, queries, drawn in parts:
            size = len(policies[number].rows)
            assert not set(queries.tolist()) & set(drawn.tolist())
            assert len(set(drawn.tolist())) == len(drawn)
            assert len(drawn) == min(references, size - len(queries))
            asked += [(number, place) for place in queries.tolist()]
    assert sorted(asked) == [(i, place) for i, own in enumerate(rows) for place in range(len(own))]


def test_references_are_drawn_anew_for_every_batch_and_alike_for_all_policies() -> None:
    policies = [policy(list(range(80)), seed=i) for i in range(2)]
    found = list(batches(policies, Recipe(references=10, batch=8), 0))
    drawn = [tuple(sorted(references.tolist())) for parts in found for _, _, references in parts]
    assert len(set(drawn)) > len(found)
    shared = [len(set(parts[0][2].tolist()) & set(parts[1][2].tolist())) for parts in found]
    assert min(shared) >= 4  # less than 10 only where one is asked about
    again = batches(policies, Recipe(references=10, batch=8), 1)
    assert drawn != [tuple(sorted(references.tolist())) for parts in again for _, _, references in parts]


@given(st.integers(0, 10_000), st.floats(0.05, 0.5))
def test_a_held_out_prompt_is_held_out_for_every_policy(seed: int, share: float) -> None:
    policies = [policy(list(range(50))), policy(list(range(25, 80)))]
    hidden = split(policies, Recipe(held_out=share, seed=seed))
    assert len(hidden) == round(share * 80)


def test_embeddings_of_held_out_prompts_cannot_change_what_is_learnt() -> None:
    made = world(60, width=32, policies=2)
    policies = [Policy(f"p{i}", np.arange(60), made.observed[i]) for i in range(2)]
    recipe, shape = Recipe(epochs=2, batch=16, references=16, held_out=0.2), AdapterShape(32, hidden=8)
    embeddings = torch.from_numpy(made.embeddings)
    first, held_out, losses = fit(embeddings, policies, shape, recipe)
    other = embeddings.clone()
    other[torch.from_numpy(held_out)] = torch.nan
    hidden = np.isin(np.arange(60), held_out)
    changed = [Policy(p.name, p.rows, np.where(hidden, 1 - p.failure, p.failure)) for p in policies]
    again, _, losses_again = fit(other, changed, shape, recipe)
    assert losses_again == losses
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert a.equal(b)


def test_the_rate_rises_over_a_tenth_and_falls_to_nothing_in_a_line() -> None:
    rates = [rate_at(step, 50) for step in range(51)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert np.diff(rates[5:]) == pytest.approx(-1 / 45)
    assert rates[50] == 0
    assert rate_at(99, 5000) == 1.0
    assert rate_at(98, 5000) < 1.0


def test_the_rate_falls_over_the_steps_of_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int]] = []

    def rate(step: int, of: int) -> float:
        steps.append((step, of))
        return 1.0

    monkeypatch.setattr(predictor, "rate_at", rate)
    made, recipe = world(40, width=32, policies=1), Recipe(epochs=3, batch=8)
    policies = [Policy("p", np.arange(40), made.observed[0])]
    fit(torch.from_numpy(made.embeddings), policies, AdapterShape(32, hidden=8), recipe)
    assert steps == [(step, 3 * 5) for step in range(3 * 5 + 1)]  # 36 prompts are trained on, 8 at a time


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_own_numbers_alone() -> None:
    made = world(40, width=32, policies=1)
    one, embeddings = [Policy("p", np.arange(40), made.observed[0])], torch.from_numpy(made.embeddings)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = (fit(embeddings, one, AdapterShape(32, hidden=8), Recipe(epochs=2))[2] for _ in range(2))
    assert torch.get_rng_state().equal(before)
    assert first == again
    assert fit(embeddings, one, AdapterShape(32, hidden=8), Recipe(epochs=2, seed=1))[2] != first


def test_too_few_prompts_are_named() -> None:
    with pytest.raises(InputError, match=r"^few has 15 prompts to train on and 16 are needed: .*predict"):
        fit(torch.zeros(16, 4), [policy(list(range(16)), "few")], AdapterShape(4), Recipe(held_out=0.05))


def test_a_known_world_is_predicted_for_policies_and_prompts_never_seen() -> None:
    known = world(2000 + 256 + 600, width=32, seed=0)
    train, references, asked = np.arange(2000), np.arange(2000, 2256), np.arange(2256, 2856)
    embeddings = torch.from_numpy(known.embeddings)
    policies = [Policy(f"p{i}", train, known.observed[i, train]) for i in range(6)]
    fitted, _, _ = fit(embeddings, policies, AdapterShape(32, hidden=48), Recipe(epochs=6, held_out=0.0))
    for number in (6, 7):
        failure, losses = known.observed[number], known.losses[number, asked]
        ceiling = noise_ceiling(known.rollouts - losses, losses)
        assert ceiling is not None
        observed = known.embeddings[references], failure[references]
        adapter = by_references(fitted, *observed)(known.embeddings[asked])
        assert (pearson(adapter, failure[asked]) or 0) >= 0.9 * ceiling
        # The failure rate, not the pass rate: turned around, the error is larger by far.
        assert np.mean((adapter - failure[asked]) ** 2) < 0.05 < np.mean((1 - adapter - failure[asked]) ** 2)

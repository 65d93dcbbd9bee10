"""The lean study's loop: its pass against `transformers`, its judging against samples, its gradients and bill."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

import column_sets
import gaincurate
import tiny
from gaincurate.difficulty.embeddings import maker
from gaincurate.difficulty.predictor import DifficultyPredictor, Shape, save_adapter
from gaincurate.schedule import base
from gaincurate.trainers.replay_loss import replay_loss

FOLDER = Path(__file__).parent.parent / "docs/studies/lean"
NAMES = (
    "policy",
    "world",
    "choosing",
    "loop",
    "papers",
    "study",
    "agreement",
    "head",
    "influence",
    "observed",
)
ANSWERS = ["in", "st", "a", "on"] * 3
TASKS = ["copy", "copy", "ends", "ends"] * 3
EARLIER_SETTINGS = {"dots-2", "dots-10", "dots-40-96k"}  # arms with an option that is no longer there


@pytest.fixture(scope="module")
def lean() -> Iterator[Any]:
    torch.set_num_threads(1)
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            del sys.modules[name]


@pytest.fixture(scope="module")
def folder(lean: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of twelve prompts and a model that gives the right answer sometimes, in more than one spelling."""
    folder = tmp_path_factory.mktemp("lean")
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(folder / "model")
    questions = [f"say {'the ' * (row % 4)}{row}" for row in range(len(TASKS))]
    for name in ("scored", "heldout"):
        angles = [0.1 * (1 + row % 5) for row in range(len(TASKS))]
        source = {"answer": ANSWERS, "source": TASKS, "level": [1] * len(TASKS)}
        embeddings = np.random.default_rng(0).normal(size=4 * len(TASKS)).astype(np.float16)
        scores = {"gc_angle": angles, "gc_embedding": pa.FixedSizeListArray.from_arrays(embeddings, 4)}
        column_sets.column_set(folder / name, [50] * len(TASKS), scores, source, questions=questions)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    prompts = lean.world.Prompts(lean.world.ScoredSet(folder / "scored"), np.arange(len(TASKS)), tokenizer)
    spelled = [tokens for answer in prompts.spellings for tokens in answer]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    draws = np.random.default_rng(0)
    for _ in range(30):  # half of the time the right answer in some spelling, else any prompt's
        rows = []
        for place, prompt in enumerate(prompts.tokens):
            choices = prompts.spellings[place] if draws.random() < 0.5 else spelled
            rows.append(prompt + choices[draws.integers(len(choices))])
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for row, (tokens, prompt) in enumerate(zip(rows, prompts.tokens, strict=True)):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, len(prompt) : len(tokens)] = ids[row, len(prompt) : len(tokens)]
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def world(lean: Any, folder: Path) -> Any:
    return lean.world.World(folder)


def log_probs_of(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """The slow way: a pass over prompt and completion alone."""
    values = model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
    places = torch.arange(len(prompt) - 1, len(prompt) + len(tokens) - 1)
    picked: torch.Tensor = values[places, torch.tensor(tokens)]
    return picked


def test_branches_of_a_prompt_have_the_log_probabilities_and_gradients_of_passes_alone(
    lean: Any, world: Any
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(world.model)
    policy = world.policy()
    prompts = world.prompts.tokens[:3]
    branches = [[[5, 6, 7], [8]], [], [[9, 10], [5, 11, 12, 13]]]
    ours = policy.log_probs(lean.policy.trees(prompts, branches))
    pairs = [(prompt, tokens) for prompt, each in zip(prompts, branches, strict=True) for tokens in each]
    theirs = torch.cat([log_probs_of(model, *pair) for pair in pairs])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(-1, 1, len(ours))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    layer = model.model.layers[1]
    torch.testing.assert_close(
        policy.embedding.grad, model.model.embed_tokens.weight.grad, atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        policy.layers[1]["qkv"].grad[32:64], layer.self_attn.k_proj.weight.grad, atol=1e-5, rtol=1e-4
    )


def test_exact_accuracy_is_what_samples_come_to(lean: Any, world: Any) -> None:
    policy, prompts, count = world.policy(), world.heldout, 400
    assert max(len(each) for each in prompts.spellings) > 1  # or sums over spellings are not tested
    exact = prompts.accuracies(policy)
    assert 0.05 < exact.mean() < 0.95
    completions = policy.sample(prompts.tokens, count, lean.world.LONGEST, torch.Generator().manual_seed(0))
    texts = world.tokenizer.batch_decode(completions, skip_special_tokens=True)
    right = [text.strip() == prompts.answers[place // count] for place, text in enumerate(texts)]
    sampled = np.reshape(right, (-1, count)).mean(1)
    errors = (sampled - exact) / np.sqrt(exact * (1 - exact) / count)
    assert (errors**2).sum() < 32.9  # chi-square of 12, 0.999


def test_a_completion_ends_at_the_end_token_or_at_its_longest(lean: Any, world: Any) -> None:
    policy = world.policy()
    for longest in (1, 3):
        completions = policy.sample(world.prompts.tokens, 50, longest, torch.Generator().manual_seed(0))
        for tokens in completions:
            assert policy.end not in tokens[:-1]
            assert len(tokens) == longest or tokens[-1] == policy.end


def test_influence_is_the_product_of_a_prompts_gradient_with_the_means(lean: Any, world: Any) -> None:
    policy = world.policy()
    weights = policy.parameters()
    before = [w.detach().clone() for w in weights]
    gradients = np.zeros((len(world.prompts), sum(w.numel() for w in weights)))
    for places, values in world.prompts.chunks(policy):
        for place, value in zip(places, values, strict=True):
            parts = torch.autograd.grad(value, weights, retain_graph=True)
            gradients[place] = torch.cat([part.flatten() for part in parts]).numpy()
    expected = gradients @ gradients.mean(0)
    influences = lean.choosing.Exact(world.prompts, policy).influences()
    assert np.abs(influences - expected).max() < 0.01 * np.abs(expected).max()
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def head_gradients(lean: Any, world: Any, policy: Any, spelled: list[Any], weights: Any) -> Any:
    """`[N, V, width]`: of sums of log-probabilities with weights, by autograd at a head of its own."""
    firsts, gradients = np.cumsum([0, *map(len, spelled)]), []
    for place, each in enumerate(spelled):
        if not each:
            gradients.append(torch.zeros_like(policy.embedding))
            continue
        batch = lean.policy.trees([world.prompts.tokens[place]], [each])
        head = policy.embedding.detach().clone().requires_grad_()
        logits = policy.states(batch).detach()[batch.before] @ head.T
        logs = logits.log_softmax(-1).gather(1, batch.scored[:, None])[:, 0]
        loss = (logs * weights[firsts[place] + batch.branch]).sum()
        gradients.append(torch.autograd.grad(loss, head)[0])
    return torch.stack(gradients)


@pytest.fixture(scope="module")
def at_the_head(lean: Any, world: Any) -> Any:
    """A policy, its reading of some completions, two columns of their weights and the gradients by autograd."""
    policy = world.policy()
    completions = [[[5 + place, 6], [7]] * (place != 3) for place in range(len(world.prompts))]
    rows = lean.head.read(policy, world.prompts.tokens, completions)
    weights = torch.randn(len(rows.log_probs), 2, generator=torch.Generator().manual_seed(0))
    gradients = [head_gradients(lean, world, policy, completions, w) for w in weights.T]
    return policy, rows, weights, torch.stack(gradients, 1)


def test_products_of_gradients_at_the_head_are_those_of_autograd(
    lean: Any, world: Any, at_the_head: Any
) -> None:
    policy, rows, weights, gradients = at_the_head
    head = lean.head.Head(policy.embedding, rows)
    mean = head.mean(weights)
    torch.testing.assert_close(mean, gradients.mean(0), atol=1e-5, rtol=1e-4)
    expected = torch.einsum("ncvw,cvw->nc", gradients, gradients.mean(0))
    torch.testing.assert_close(head.along(weights, mean), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(head.squares(weights), gradients.square().sum((2, 3)), atol=1e-4, rtol=1e-4)


def test_projected_products_are_right_in_the_mean(lean: Any, at_the_head: Any) -> None:
    policy, rows, weights, gradients = at_the_head
    expected = torch.einsum("ncvw,cvw->nc", gradients, gradients.mean(0))
    drawn = []
    for seed in range(400):
        head = lean.head.Head(policy.embedding, rows, 8, seed)
        drawn.append(head.along(weights, head.mean(weights)))
    products = torch.stack(drawn)
    errors = products.std(0) / len(drawn) ** 0.5
    assert ((products.mean(0) - expected).abs() <= 4 * errors + 1e-6).all()
    assert (errors[gradients.square().sum((2, 3)) > 0] > 0).all()


def test_what_the_best_have_counts_equal_values_alike(lean: Any) -> None:
    exact = np.random.default_rng(0).normal(size=200)
    assert lean.influence.caught(np.zeros(200), exact) == pytest.approx(0, abs=1e-12)
    assert lean.influence.caught(exact, exact) == 1
    top = np.argsort(-exact)
    values = np.zeros(200)
    values[top[:40]] = 1  # the other 40 places go to 160 prompts at random
    expected = (exact[top[:40]].sum() + 40 * exact[top[40:]].mean()) / 80 - exact.mean()
    assert lean.influence.caught(values, exact) == pytest.approx(
        expected / (exact[top[:80]].mean() - exact.mean())
    )


def test_weights_of_completions_are_the_advantages_of_their_rollouts(lean: Any) -> None:
    which = np.repeat([[0, 1], [2, 2]], 32, axis=1)[:, np.random.default_rng(0).permutation(64)]
    right = (which == 1).astype(float)
    outcomes = lean.head.Outcomes([[[5], [6]], [[7]]], which, right)
    weights = outcomes.weights((1, 8), 4, np.array([0, 0]))
    for draw in range(4):
        rate = right[0, 16 * draw : 16 * draw + 8].mean()
        assert weights[:, 1, draw].tolist() == pytest.approx([-rate * (1 - rate), rate * (1 - rate), 0])
        win = right[0, 16 * draw]  # one rollout, less the mean of the task: of it and a wrong one
        assert weights[:, 0, draw].tolist() == pytest.approx([-(1 - win) * win / 2, win / 2, -win / 2])


def test_the_loss_is_grpos_with_and_without_old_rollouts(lean: Any, world: Any) -> None:
    policy, draws = world.policy(), np.random.default_rng(0)
    groups, rows = [], []
    for place, shift in ((0, None), (4, 0.5)):
        completions = [[5 + k] * (1 + k % 3) for k in range(8)]
        advantages = draws.normal(size=8)
        batch = lean.policy.trees([world.prompts.tokens[place]], [completions])
        now = policy.log_probs(batch).detach()
        noise = torch.from_numpy(draws.normal(size=len(now))).float()
        behaviour = now if shift is None else now + shift * noise
        stored = None if shift is None else behaviour
        groups.append(lean.loop.Group(world.prompts.tokens[place], completions, advantages, stored))
        rows.append((completions, advantages, behaviour))
    loss, logps = lean.loop.loss_of(policy, groups, 16)
    behaviour = torch.cat([row[2] for row in rows])
    lengths = [len(tokens) for completions, _, _ in rows for tokens in completions]
    padded = [torch.nn.utils.rnn.pad_sequence(v.split(lengths), batch_first=True) for v in (logps, behaviour)]
    mask = torch.arange(3) < torch.tensor(lengths)[:, None]
    of_all = torch.from_numpy(np.concatenate([row[1] for row in rows])).float()
    torch.testing.assert_close(loss, replay_loss(padded[0], padded[1], of_all, mask.float()))


def arm(lean: Any, **settings: Any) -> Any:
    shared = {"name": "arm", "step_prompts": 2, "round_steps": 2, "budget_tokens": 400, "learning_rate": 1e-3}
    return lean.loop.Arm(**{**shared, **settings})


def test_a_training_learns_and_its_bill_adds_up(lean: Any, world: Any) -> None:
    settings = arm(lean, budget_tokens=2000)
    training = lean.loop.Training(world, settings, 0)
    row = training.run()
    again = lean.loop.Training(world, settings, 0).run()
    assert row["accuracy"] == again["accuracy"]
    assert len(row["accuracy"]) == 5
    assert row["accuracy"][-1] > row["accuracy"][0] + 0.02
    assert row["tokens"] >= 2000 > row["tokens"] - 2 * 8 * lean.world.LONGEST
    assert row["drawn"] == 2 * row["steps"]
    assert row["scoring"] == 0
    assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert row["accuracy"][-1] == pytest.approx(world.heldout.accuracies(training.policy).mean(), abs=1e-6)


def test_the_first_step_of_the_warm_up_changes_no_weight(lean: Any, world: Any) -> None:
    training = lean.loop.Training(world, arm(lean, budget_tokens=1), 0)
    training.run()
    start = world.policy().parameters()
    assert all(torch.equal(w, b) for w, b in zip(training.policy.parameters(), start, strict=True))


def test_a_strategy_that_reads_scores_pays_for_the_pass(lean: Any, world: Any) -> None:
    row = lean.loop.Training(world, arm(lean, strategy="gain-rl", options={"sigma": "0.5N"}), 0).run()
    assert row["scoring"] == 60  # a tenth of 12 prompts of 50 tokens
    generated = row["tokens"] - row["scoring"]
    assert generated < 400


def test_replayed_groups_join_once_there_are_so_many(lean: Any, world: Any) -> None:
    training = lean.loop.Training(world, arm(lean, replayed=3), 0)
    training.run()
    counts = [step["replayed"] for step in training.steps]
    assert counts[0] == 0
    assert set(counts) == {0, 3}


def test_a_prompts_own_rollouts_are_not_in_the_mean_that_they_are_multiplied_with(
    lean: Any, world: Any
) -> None:
    policy = world.policy()
    exact = lean.choosing.Exact(world.prompts, policy)
    rows = np.arange(len(world.prompts))
    pool = base.Pool(len(rows), 4, 0, (0.0, 1.0))
    oracle: Any = base.build("choosing:Oracle", pool, {"of": "sampled"})
    drawn = []
    for round_ in range(30):
        oracle.prepare(lean.choosing.Context(world.scored, world.rows, rows, round_, exact))
        drawn.append(oracle._values.mean())
    # The square of their noise would be in it: the mean would be several times as large.
    expected, error = (7 / 8) ** 2 * exact.influences().mean(), np.std(drawn, ddof=1) / len(drawn) ** 0.5
    assert abs(np.mean(drawn) - expected) < 3 * error < expected


def test_sampled_influence_is_the_product_of_its_gradients(lean: Any, world: Any) -> None:
    policy, prompts = world.policy(), world.prompts
    outcomes = lean.head.roll(policy, prompts, 16, 0)
    weights = outcomes.weights((8,), 2, np.zeros(len(prompts), np.int64))[:, 0]
    batch = lean.policy.trees(prompts.tokens, outcomes.completions)
    logs = torch.zeros(len(weights)).index_add(0, batch.branch, policy.log_probs(batch))
    owners = np.repeat(np.arange(len(prompts)), list(map(len, outcomes.completions)))
    gradients = np.zeros((2, len(prompts), sum(w.numel() for w in policy.parameters())))
    for draw, place in np.ndindex(2, len(prompts)):
        own = torch.from_numpy(owners == place)
        loss = (logs * weights[:, draw])[own].sum()
        parts = torch.autograd.grad(loss, policy.parameters(), retain_graph=True)
        gradients[draw, place] = torch.cat([part.flatten() for part in parts]).numpy()
    expected = np.array([gradients[k] @ gradients[1 - k].mean(0) for k in (0, 1)])
    found = lean.choosing.sampled_influences(policy, prompts, outcomes.completions, weights)
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("of", ["variance", "influence"])
def test_an_oracle_draws_by_exact_values_and_keeps_shares(lean: Any, world: Any, of: str) -> None:
    policy = world.policy()
    exact = lean.choosing.Exact(world.prompts, policy)
    rates = exact.accuracies()
    values = rates * (1 - rates) if of == "variance" else exact.influences()
    for within in (False, True):
        options = {"of": of, "power": 10_000}
        chooser = lean.choosing.Chooser(world, "choosing:Oracle", options, None, None, 4, 0, within)
        drawn = chooser.draw(0, policy)
        best = np.argsort(-values)[:4]
        if within:
            tasks = world.prompts.tasks
            best = np.concatenate(
                [np.flatnonzero(tasks == t)[np.argsort(-values[tasks == t])[:2]] for t in set(tasks)]
            )
        # Those without worth are equal, and others nearly so: which of them are drawn is chance.
        assert len(set(drawn)) == 4
        assert sorted(np.maximum(values[drawn], 0)) == pytest.approx(
            sorted(np.maximum(values[best], 0)), rel=1e-2
        )
        assert not within or Counter(world.prompts.tasks[drawn]) == Counter(world.prompts.tasks[best])


def test_observed_influence_is_that_of_each_half_along_the_others_mean(lean: Any, world: Any) -> None:
    training = lean.loop.Training(world, arm(lean, strategy="observed:Observed", round_steps=6), 0)
    oracle, prompts = training.chooser.selector, world.prompts
    policy, places = world.policy(), training.chooser.draw(0, world.policy())
    groups, wins, _ = lean.loop.roll_out(prompts, policy, places.tolist(), torch.Generator().manual_seed(0))
    training.chooser.rolled(places, groups, policy)
    gradients = []
    for group in groups:
        batch = lean.policy.trees([group.prompt], [group.completions])
        weights = torch.from_numpy(group.advantages / 8).float()[batch.branch]
        parts = torch.autograd.grad((weights * policy.log_probs(batch)).sum(), policy.parameters())
        gradients.append(torch.cat([part.flatten() for part in parts]).double().numpy())
    whole = np.array(gradients)
    for half in (0, 1):
        expected = whole[half::2] @ whole[1 - half :: 2].sum(0) / len(prompts)
        assert np.abs(oracle._values[places[half::2]] - expected).max() < 0.01 * np.abs(expected).max()
    read = sum(len(g.prompt) + sum(map(len, g.completions)) for g in groups if g.advantages.any())
    training.chooser.observe(0, wins, 8 - wins, wins)
    training.chooser.draw(1, policy)
    assert training.chooser.bill["influence"] == round(0.2 * read)
    assert training.scoring > 0
    controls = {"charged": False, "dealt": True}
    free = lean.loop.Training(
        world, arm(lean, strategy="observed:Observed", options=controls, round_steps=6), 0
    )
    free.chooser.draw(0, policy)
    free.chooser.rolled(places, groups, policy)
    free.chooser._last = places
    free.chooser.observe(0, wins, 8 - wins, wins)
    free.chooser.draw(1, policy)
    assert (free.scoring, free.chooser.bill.total()) == (0, 0)
    ours, dealt = training.chooser.selector, free.chooser.selector
    assert sorted(dealt._sums) == pytest.approx(sorted(ours._sums))
    assert list(dealt._sums) != pytest.approx(list(ours._sums))


def test_an_oracle_reads_the_checkpoint_of_a_run_and_its_order(lean: Any, world: Any) -> None:
    rows = np.arange(len(world.scored))[::-1]  # by rank
    run = SimpleNamespace(config=SimpleNamespace(model=str(world.model)))
    context: Any = SimpleNamespace(run=run, scored=world.scored, rows=rows, checkpoint=str(world.model))
    pool = base.Pool(len(rows), 4, 0, (0.0, 1.0))
    oracle = base.build("choosing:Oracle", pool, {"power": 10_000})
    oracle.prepare(context)
    rates = lean.choosing.Exact(world.prompts, world.policy()).accuracies()[rows]
    values = rates * (1 - rates)
    drawn = oracle.draw(0)
    assert sorted(values[drawn]) == pytest.approx(sorted(values)[-4:], rel=1e-2)


def as_transformers(policy: Any, start: Path) -> Any:
    """The policy's weights in a model of `transformers`, put there part by part."""
    model = transformers.AutoModelForCausalLM.from_pretrained(start)
    width, inner = model.config.hidden_size, model.config.intermediate_size
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(policy.embedding)
        model.model.norm.weight.copy_(policy.norm)
        for ours, theirs in zip(policy.layers, model.model.layers, strict=True):
            theirs.input_layernorm.weight.copy_(ours["in"])
            theirs.post_attention_layernorm.weight.copy_(ours["mid"])
            for number, part in enumerate((theirs.self_attn.q_proj, theirs.self_attn.k_proj)):
                part.weight.copy_(ours["qkv"][number * width : (number + 1) * width])
            theirs.self_attn.v_proj.weight.copy_(ours["qkv"][2 * width :])
            theirs.self_attn.o_proj.weight.copy_(ours["o"])
            theirs.mlp.gate_proj.weight.copy_(ours["up"][:inner])
            theirs.mlp.up_proj.weight.copy_(ours["up"][inner:])
            theirs.mlp.down_proj.weight.copy_(ours["down"])
    return model


def test_angles_in_the_loop_are_those_of_gaincurate_score_on_the_newest_weights(
    lean: Any, world: Any, folder: Path, tmp_path: Path
) -> None:
    settings = arm(lean, strategy="papers:GainRL", options={"sigma": "0.3N", "every": 2}, budget_tokens=900)
    training = lean.loop.Training(world, settings, 0)
    passes: list[tuple[int, Any, int]] = []
    angles_of = lean.papers.angles_of

    def spied(policy: Any, start: Path, questions: list[str]) -> Any:
        angles, tokens = angles_of(policy, start, questions)
        model = as_transformers(policy, start)
        place = tmp_path / str(len(passes))
        model.save_pretrained(place)
        world.tokenizer.save_pretrained(place)
        rows = [json.dumps({"question": question}) for question in questions]
        (tmp_path / "rows.jsonl").write_text("\n".join(rows))
        options = {"system": lean.papers.SYSTEM, "shots": lean.papers.EXAMPLE, "device": "cpu"}
        gaincurate.score(str(tmp_path / "rows.jsonl"), str(place), f"{place}-scored", **options)
        scored = gaincurate.ScoredSet(Path(f"{place}-scored"))
        assert scored.column("question").to_pylist() == questions
        np.testing.assert_allclose(angles, scored.column("gc_angle").to_numpy(), atol=1e-6)
        prefix, whole = (scored.column(f"gc_{name}_tokens").to_numpy() for name in ("prefix", "prompt"))
        assert prefix.min() == prefix.max() > 20
        assert tokens == prefix[0] + (whole - prefix).sum()
        passes.append((len(training.steps), angles, tokens))
        return angles, tokens

    lean.papers.angles_of = spied
    try:
        row = training.run()
    finally:
        lean.papers.angles_of = angles_of
    assert [steps for steps, _, _ in passes] == list(range(0, row["steps"], 4))  # every second round of two
    assert np.abs(passes[1][1] - passes[0][1]).max() > 1e-4
    assert row["spent"] == {"scoring": sum(round(tokens / 10) for _, _, tokens in passes)}
    selector = training.chooser.selector
    ranks = selector._order
    assert np.all(np.diff(selector._angles[ranks]) <= 0)


def test_references_near_the_target_are_trained_on_and_paid_once(
    lean: Any, world: Any, folder: Path, tmp_path: Path
) -> None:
    predictor = DifficultyPredictor(Shape(4, hidden=8, input_norm=True))
    save_adapter(tmp_path / "adapter", predictor, maker(world.scored), {})
    options = {"references": 4, "adapter": str(tmp_path / "adapter"), "reuse_references": 0.4}
    training = lean.loop.Training(world, arm(lean, strategy="papers:Dots", options=options), 0)
    sample, update = training.policy.sample, training._update
    generated: list[tuple[list[list[int]], list[list[int]]]] = []
    joined = []

    def sampled(prompts: Any, *rest: Any) -> Any:
        completions = sample(prompts, *rest)
        generated.append((prompts, completions))
        return completions

    def updated(fresh: list[Any], reused: list[Any]) -> Any:
        assert len(fresh) + len(reused) == 2
        for group in reused:
            rewards = group.advantages - group.advantages.min()  # 0 and 1, as some were right and some wrong
            assert abs(rewards.mean() - 0.5) <= 0.4
            asked, completions = next(call for call in reversed(generated) if len(call[0]) == 4)
            place = asked.index(group.prompt)
            assert group.completions == completions[8 * place : 8 * place + 8]
            batch = lean.policy.trees([group.prompt], [group.completions])
            ratio = (training.policy.log_probs(batch) - group.behaviour).exp()
            joined.append((len(training.steps) % 2, float((ratio - 1).detach().abs().max())))
        return update(fresh, reused)

    training.policy.sample, training._update = sampled, updated
    row = training.run()
    assert joined
    assert all(change < 1e-5 for step, change in joined if step == 0)  # the policy that generated them
    assert any(change > 1e-5 for step, change in joined if step == 1)
    assert row["tokens"] - row["scoring"] == sum(len(t) for _, all_ in generated for t in all_)
    assert row["spent"]["references"] == sum(
        len(t) for asked, all_ in generated if len(asked) == 4 for t in all_
    )
    assert row["drawn"] == sum(len(asked) for asked, _ in generated if len(asked) != 4)
    assert row["drawn"] + len(joined) == 2 * row["steps"]


def test_finished_trainings_are_not_run_again(
    lean: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, results = tmp_path / "study.toml", tmp_path / "results.jsonl"
    text = f'seeds = [0]\n[worlds.w]\nfolder = "{folder}"\n'
    for name, size in (("uniform", 2), ("uniform-1", 1)):
        text += f'[[arms]]\nname = "{name}"\nstep_prompts = {size}\nbudget_tokens = 200\n'
    study.write_text(text)
    for _ in range(2):
        lean.study.main(study, results)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["arm"] for line in lines] == ["uniform", "uniform-1"]
    table = capsys.readouterr().out
    less = 100 * (lines[1]["accuracy"][-1] - lines[0]["accuracy"][-1])
    assert f"{less:+.2f}" in table


def test_the_files_give_every_table_of_the_page(lean: Any, capsys: pytest.CaptureFixture[str]) -> None:
    page = (FOLDER / "README.md").read_text()
    lean.agreement.main(FOLDER / "results.jsonl")
    assert all(line in page for line in capsys.readouterr().out.splitlines())
    for config in FOLDER.glob("*.toml"):
        results = FOLDER / f"{config.stem.replace('smollm', 'smollm-balanced')}.jsonl"
        if results.exists():
            lean.study.main(config, results, show=True)
    rows = [json.loads(line) for line in (FOLDER / "influence.jsonl").read_text("utf-8").splitlines()]
    given = {*capsys.readouterr().out.splitlines(), *lean.influence.table(rows).splitlines()}
    tables = re.findall(r"```text\n([\w-]+ +(?:seeds|all) .*?)```", page, re.DOTALL)
    assert len(tables) == page.count("```text") - 1  # that of TRL has another form
    shown = {line for table in tables for line in table.splitlines() if line}
    assert {line.split()[0] for line in shown - given} <= EARLIER_SETTINGS

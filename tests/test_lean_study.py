"""The lean study's loop: its pass against `transformers`, its judging against samples, its gradients and bill."""

from __future__ import annotations

import importlib
import json
import re
import sys
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
from gaincurate.difficulty.predictor import AdapterShape, DifficultyPredictor, save_adapter
from gaincurate.trainers.replay_loss import replay_loss

FOLDER = Path(__file__).parent.parent / "docs/studies/lean"
NAMES = (
    "policy", "world", "choosing", "loop", "papers", "study", "agreement", "head", "influence", "observed",
)  # fmt: skip
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
    sizes = {**tiny.COMMON, "vocab_size": len(tokenizer), "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": 256, "eos_token_id": tokenizer.eos_token_id}
    config = transformers.LlamaConfig(**sizes, tie_word_embeddings=True)
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


def test_a_strategy_that_reads_scores_pays_for_the_pass(lean: Any, world: Any) -> None:
    row = lean.loop.Training(world, arm(lean, strategy="gain-rl", options={"sigma": "0.5N"}), 0).run()
    assert row["scoring"] == 60  # a tenth of 12 prompts of 50 tokens
    generated = row["tokens"] - row["scoring"]
    assert generated < 400


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
    predictor = DifficultyPredictor(AdapterShape(4, hidden=8))
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
        results = FOLDER / f"{'smollm-balanced' if config.stem == 'smollm' else config.stem}.jsonl"
        if results.exists():
            lean.study.main(config, results, show=True)
    rows = [json.loads(line) for line in (FOLDER / "influence.jsonl").read_text("utf-8").splitlines()]
    given = {*capsys.readouterr().out.splitlines(), *lean.influence.table(rows).splitlines()}
    tables = re.findall(r"```text\n([\w-]+ +(?:seeds|all) .*?)```", page, re.DOTALL)
    assert len(tables) == page.count("```text") - 1  # that of TRL has another form
    shown = {line for table in tables for line in table.splitlines() if line}
    assert {line.split()[0] for line in shown - given} <= EARLIER_SETTINGS

"""Real GRPO runs of a tiny model that replays, in this process; killed and on two: test_trl_pair.py."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import trl

import arithmetic
import replay_run
from gaincurate.errors import InputError, OutcomeError, OutputError
from gaincurate.replay import state
from gaincurate.trainers.replay_loss import replay_loss
from gaincurate.trainers.trl.live import attach, dataset
from gaincurate.trainers.trl.replay import Replay, ReplayGRPOTrainer, Replays, Row, refuse_padding
from trl_run import Ender, Ends

BATCH, FRESH, GROUP, CAPACITY = 8, 4, 4, 12
SIZES = {"batch": BATCH, "fresh": FRESH, "group": GROUP, "capacity": CAPACITY}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has seen half of what it needs: of four answers some are right."""
    return arithmetic.save_model(tmp_path_factory.mktemp("sums") / "model", 120, largest=replay_run.LARGEST)


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training of twelve updates that several tests look at, with the weights of each version."""
    trainer = make(model, tmp_path_factory.mktemp("done"), max_steps=12)
    trainer.weights = replay_run.Weights()
    trainer.add_callback(trainer.weights)
    trainer.train()
    return trainer


def make(
    model: Path, output: Path, *, replay: Replay | None = None, kind: Any = replay_run.Told, **options: Any
) -> Any:
    """A trainer of sums; `Told` keeps what it did."""
    more: dict[str, Any] = {
        name: options.pop(name) for name in ("reward", "reward_funcs", "eval_dataset") if name in options
    }
    return kind(
        model=str(model),
        args=replay_run.config(output, **({"max_steps": 8} | options)),
        train_dataset=arithmetic.dataset(replay_run.LARGEST),
        replay=replay or Replay(capacity=CAPACITY),
        **more,
    )


def test_each_step_is_algorithm_1(done: Any) -> None:
    replays = replay_run.audit(done.lines, **SIZES)
    assert 8 <= replays < 12  # it has to fill first
    assert len(done.buffer) == CAPACITY
    assert done.buffer.counts.evicted > 0
    assert len({key[0] for line in done.lines for key in line.replayed}) > 5


def keys(inputs: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Prompt and completion of each rollout of a micro-batch, without padding."""

    def whole(name: str) -> list[tuple[int, ...]]:
        masks = inputs[f"{name}_mask"].bool()
        return [tuple(ids[mask].tolist()) for ids, mask in zip(inputs[f"{name}_ids"], masks, strict=True)]

    return list(zip(whole("prompt"), whole("completion"), strict=True))


def rows_by_content(inputs: dict[str, Any]) -> Counter[tuple[Any, ...]]:
    """The rollouts of a micro-batch without padding, however they were shuffled."""
    masks, replayed = inputs["completion_mask"].bool(), inputs["replayed"].tolist()
    logps = [tuple(row[mask].tolist()) for row, mask in zip(inputs["behaviour_logps"], masks, strict=True)]
    rows = zip(keys(inputs), logps, inputs["advantages"].tolist(), replayed, strict=True)
    return Counter((*key, *values) for key, *values in rows)


def test_what_the_loss_is_given_is_the_stored_groups_whole(done: Any) -> None:
    """Every rollout of every drawn group, its tokens, log-probs and advantage, and its own fresh ones beside."""
    assert len(done.losses) == len(done.lines)
    seen = 0
    for line, (inputs, _, _) in zip(done.lines, done.losses, strict=True):
        expected: Counter[tuple[Any, ...]] = Counter()
        for group in line.groups:
            for place in range(GROUP):
                row = (group.prompt_ids, group.completion_ids[place], group.logprobs[place])
                advantage = torch.tensor(group.advantages[place], dtype=torch.float32).item()
                expected[(*[tuple(values.tolist()) for values in row], advantage, True)] += 1
        found = Counter({row: count for row, count in rows_by_content(inputs).items() if row[-1]})
        assert found == expected
        seen += len(line.groups)
    assert seen >= 3 * (BATCH - FRESH)


def test_stored_groups_are_what_was_rewarded(done: Any) -> None:
    """Tokens that decode to the answer whose reward is there; advantages r - mean, all rollouts of one prompt."""
    tokens = arithmetic.tokenizer()
    for group in [group for line in done.lines for group in line.groups]:
        prompt = tokens.decode(group.prompt_ids.tolist())
        assert prompt == f"{group.gc_id}="
        first, second = group.gc_id.split("+")
        answers = [tokens.decode(ids.tolist(), skip_special_tokens=True) for ids in group.completion_ids]
        right = [float(answer == str(int(first) + int(second))) for answer in answers]
        assert group.rewards.tolist() == group.correct.tolist() == right
        mean = sum(right) / GROUP
        assert group.advantages.tolist() == pytest.approx([value - mean for value in right], abs=1e-6)
        assert 0 < mean < 1
        assert (group.temperature, group.top_p, group.logprobs_of) == (1.0, 1.0, "tempered")


def test_stored_log_probs_are_those_of_the_stored_version(done: Any, model: Path) -> None:
    """Recomputed from the logits of the weights of that time, one rollout at a time; with others they are not."""
    stored, newest = replay_run.farthest(done, model, 1.0)
    assert stored < 1e-4
    assert newest > 1e-2


def test_stored_log_probs_are_under_the_sampling_temperature(model: Path, tmp_path: Path) -> None:
    trainer = make(model, tmp_path, temperature=0.7)
    trainer.weights = replay_run.Weights()
    trainer.add_callback(trainer.weights)
    trainer.train()
    assert sum(len(line.groups) for line in trainer.lines) >= 3 * (BATCH - FRESH)
    assert replay_run.farthest(trainer, model, 0.7)[0] < 1e-4
    assert replay_run.farthest(trainer, model, 1.0)[0] > 1e-2


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo"])
@pytest.mark.parametrize("clip", ["one", "old"])
def test_a_mixed_batchs_loss_is_the_formula(model: Path, tmp_path: Path, clip: Any, loss_type: str) -> None:
    """Two micro-batches a generation and two passes, so that pi, pi_old and pi_behaviour are three policies."""
    passes = {
        "per_device_train_batch_size": 16,
        "steps_per_generation": 2,
        "num_iterations": 2,
        "max_steps": 16,
    }
    replay = Replay(capacity=CAPACITY, clip=clip)
    trainer = make(model, tmp_path, replay=replay, loss_type=loss_type, **passes)
    trainer.train()
    assert replay_run.audit(trainer.lines, **SIZES, lag=4) >= 1
    stored = {
        (tuple(group.prompt_ids.tolist()), tuple(ids.tolist())): advantage
        for line in trainer.lines
        for group in line.groups
        for ids, advantage in zip(group.completion_ids, group.advantages, strict=True)
    }
    mixed = 0
    for number, (inputs, logps, loss) in enumerate(trainer.losses):
        behaviour, mask = inputs["behaviour_logps"].double(), inputs["tool_mask"]
        advantages = inputs["advantages"].double()
        if clip == "old":  # given by token there; what a rollout's own is, its group knows
            old = inputs["old_per_token_logps"].double()
            fresh = inputs["replayed"].logical_not()
            assert torch.equal(old[fresh], behaviour[fresh])
            kept = [stored.get(key) for key in keys(inputs)]
            plain = [
                value if there else row[0]
                for value, there, row in zip(kept, inputs["replayed"], advantages.tolist(), strict=True)
            ]
            advantages = torch.tensor(plain, dtype=torch.float64)
        else:
            old = None
            assert torch.equal(inputs["old_per_token_logps"], inputs["behaviour_logps"])
        mean: Any = "sequence" if loss_type == "grpo" else "token"
        expected = replay_loss(
            logps.double(), behaviour, advantages, mask, clip=clip, old_logps=old, mean=mean
        )
        if loss_type == "dapo":  # over the tokens of the whole generation, for two steps
            expected = expected * mask.sum() / (inputs["num_items_in_batch"] / 2)
        assert loss == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
        mixed += bool(inputs["replayed"].any()) and number % 4 > 0
    assert mixed >= 3


def test_the_first_step_is_that_of_a_trainer_that_does_not_replay(model: Path, tmp_path: Path) -> None:
    """Nothing is stored yet, so with the same seed the loss and the gradient are TRL's own on as many prompts."""
    ours = make(model, tmp_path, max_steps=1)
    ours.train()
    theirs = trl.GRPOTrainer(
        model=str(model),
        reward_funcs=arithmetic.right,
        args=replay_run.config(tmp_path, max_steps=1, per_device_train_batch_size=FRESH * GROUP),
        train_dataset=arithmetic.dataset(replay_run.LARGEST),
    )
    theirs.train()
    logs = [trainer.state.log_history[0] for trainer in (ours, theirs)]
    assert logs[0]["reward"] == logs[1]["reward"]
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], abs=1e-6)
    assert logs[0]["grad_norm"] == pytest.approx(logs[1]["grad_norm"], rel=1e-4)


def test_generation_costs_the_fresh_share(done: Any) -> None:
    """Tokens as the reward function sees them, as TRL counts them and as the log has them."""
    assert all(len(line.rewards) == FRESH * GROUP for line in done.lines)
    generated = replayed = 0
    for line, entry in zip(done.lines, done.state.log_history, strict=False):
        generated += line.tokens
        replayed += sum(group.tokens for group in line.groups)
        assert entry["replay/tokens_generated"] == generated
        assert entry["replay/tokens_trained"] == generated + replayed
        assert entry["completions/mean_length"] * len(line.rewards) == pytest.approx(line.tokens)


def test_the_log_says_what_is_replayed(done: Any) -> None:
    logs = [entry for entry in done.state.log_history if "loss" in entry]
    for line, entry, (inputs, logps, _) in zip(done.lines, logs, done.losses, strict=True):
        assert entry["replay/share"] == len(line.replayed) / (FRESH + len(line.replayed))
        assert entry["replay/groups"] == len(line.buffer)
        if not line.replayed:
            assert "replay/age_mean" not in entry
            assert "replay/ratio_ess" not in entry
            continue
        ages = [line.step - version for _, version, _ in line.replayed]
        assert (entry["replay/age_mean"], entry["replay/age_max"]) == (sum(ages) / len(ages), max(ages))
        again = set(line.fresh) & {key[0] for key in line.replayed}
        assert entry["replay/overlap"] == sum(key[0] in again for key in line.replayed) / len(ages)
        counted = inputs["completion_mask"].bool() & inputs["replayed"][:, None]
        ratios = [math.exp(value) for value in (logps - inputs["behaviour_logps"])[counted].tolist()]
        assert entry["replay/ratio_mean"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-5)
        assert entry["replay/ratio_max"] == pytest.approx(max(ratios), rel=1e-5)
        ess = sum(ratios) ** 2 / sum(ratio**2 for ratio in ratios) / len(ratios)
        assert entry["replay/ratio_ess"] == pytest.approx(ess, rel=1e-5)
        assert 0 < ess <= 1


@pytest.mark.slow
def test_accumulated_and_repeated_steps_keep_their_sizes(model: Path, tmp_path: Path) -> None:
    """Four micro-batches a generation, two of them an update, each used twice."""
    batch: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "steps_per_generation": 4,
        "gradient_accumulation_steps": 2,
    }
    trainer = make(model, tmp_path, num_iterations=2, max_steps=24, **batch)
    trainer.train()
    assert replay_run.audit(trainer.lines, **SIZES, lag=4) >= 2
    for number, line in enumerate(trainer.lines):
        parts = [inputs for inputs, _, _ in trainer.losses[8 * number : 8 * number + 8]]
        assert {len(part["prompt_ids"]) for part in parts} == {line.rows // 4}
        whole = [sum((rows_by_content(part) for part in half), Counter()) for half in (parts[:4], parts[4:])]
        assert whole[0] == whole[1]
        assert sum(whole[0].values()) == line.rows


@pytest.mark.slow
def test_a_run_whose_buffer_stays_empty_says_so(model: Path, tmp_path: Path, caplog: Any) -> None:
    trainer = make(model, tmp_path, reward=lambda texts, **columns: [1.0] * len(texts), max_steps=10)
    trainer.train()
    said = [record.getMessage() for record in caplog.records if record.name == "gaincurate"]
    assert said[0].startswith("Nothing was replayed in the last 10 steps: the buffer holds 0 groups")
    assert len(said) == 1
    assert all(entry.get("replay/share", 0) == 0 for entry in trainer.state.log_history)


@pytest.mark.slow
def test_shaped_rewards_need_the_function_that_tells_right_from_wrong(model: Path, tmp_path: Path) -> None:
    def shaped(completions: list[str], **columns: Any) -> list[float]:
        return [2.0 + len(text) for text in completions]

    options: dict[str, Any] = {"kind": ReplayGRPOTrainer, "reward_funcs": [shaped, arithmetic.right]}
    with pytest.raises(OutcomeError, match=r"^a reward of '\d\+\d' is [\d.]+, and replay needs correctness"):
        make(model, tmp_path, **options).train()
    trainer = make(model, tmp_path, replay=Replay(capacity=CAPACITY, correct="right"), **options)
    trainer.train()
    assert trainer.buffer.counts.replay_steps > 0
    for group in trainer.buffer.groups:
        assert set(group.correct.tolist()) == {0.0, 1.0}
        assert group.rewards.min() >= 2


@pytest.mark.slow
def test_a_rollout_that_nobody_could_judge_keeps_its_group_out(model: Path, tmp_path: Path) -> None:
    def unsure(completions: list[str], answer: list[str], **columns: Any) -> list[Any]:
        found: list[Any] = arithmetic.right(completions, answer)
        return [None, *found[1:]]

    trainer = make(model, tmp_path, reward=unsure, max_steps=3)
    trainer.train()
    assert [entry["replay/unjudged"] for entry in trainer.state.log_history[:3]] == [1.0] * 3
    assert not {line.fresh[0] for line in trainer.lines} & {group.gc_id for group in trainer.buffer.groups}


@pytest.mark.slow
def test_a_completion_that_was_cut_off_counts_nowhere(model: Path, tmp_path: Path) -> None:
    trainer = make(model, tmp_path, mask_truncated_completions=True, max_completion_length=2)
    trainer.train()
    cut = whole = 0
    for inputs, _, loss in trainer.losses:
        assert math.isfinite(loss)
        for ids, counted in zip(inputs["completion_ids"], inputs["tool_mask"], strict=True):
            ends = arithmetic.CHARACTERS.index("<eos>") in ids.tolist()
            assert bool(counted.any()) == ends
            cut, whole = cut + (not ends), whole + ends
    assert cut > 5
    assert whole > 5


class Engine(trl.GRPOTrainer):  # type: ignore[misc]
    """Stands in for vLLM: it samples, and says with which log-probs; one token it could not score."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self.use_vllm = False
        output = super()._generate_and_score_completions(inputs)
        self.use_vllm, self.vllm_importance_sampling_correction = True, False
        shape = output["completion_ids"].shape
        output["sampling_per_token_logps"] = -0.5 - torch.arange(shape.numel()).view(shape) / 1024
        output["sampling_per_token_logps"][0, 1] = math.nan
        return output


class TrainsWithEngine(Replays, Engine):
    """Replay around it."""


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["one", "old"])
def test_an_engines_own_log_probs_are_the_behaviour_policys(model: Path, tmp_path: Path, clip: Any) -> None:
    """Not run with vLLM itself."""
    engine: dict[str, Any] = {"kind": TrainsWithEngine, "reward_funcs": arithmetic.right, "max_steps": 3}
    trainer = make(model, tmp_path, replay=Replay(capacity=32, clip=clip), **engine)
    trainer.train()
    assert trainer.buffer.counts.replay_steps >= 1
    for group in trainer.buffer.groups:
        assert group.logprobs_of == "sampled"
        for logprobs, mask in zip(group.logprobs, group.mask, strict=True):
            given = logprobs[mask]
            assert (given <= -0.5).all()
            assert ((given + 0.5) * 1024 % 1 == 0).all()
            assert (logprobs[~mask] == 0).all()
    unscored = [(~mask).sum() for group in trainer.buffer.groups for mask in group.mask]
    assert 0 <= sum(unscored) <= 3  # one a generation, where its group was kept
    assert all(math.isfinite(e["loss"]) for e in trainer.state.log_history if "loss" in e)


@pytest.mark.slow
def test_an_evaluation_changes_nothing(model: Path, tmp_path: Path) -> None:
    found = []
    evaluation: dict[str, Any] = {
        "eval_dataset": arithmetic.dataset(1),
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    evaluation |= {"per_device_eval_batch_size": 4, "num_generations_eval": 2}
    for options in ({}, evaluation):
        trainer = make(model, tmp_path, max_steps=4, **options)
        trainer.train()
        found.append(trainer.lines[:2])
        assert len(trainer.lines) == 4
    assert found[0] == found[1]  # after that its random numbers are others
    assert trainer.state.log_history[-2]["eval_reward"] >= 0


def test_a_model_whose_log_probs_follow_the_padding_is_refused(model: Path, tmp_path: Path) -> None:
    """GPT-2 counts positions from the padding's beginning."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    config = transformers.GPT2Config(
        vocab_size=len(arithmetic.CHARACTERS), bos_token_id=None, eos_token_id=1, pad_token_id=0, **sizes
    )
    made = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        made.transformer.wpe.weight.normal_(0, 1)
        made.lm_head.weight.normal_(0, 1)
    made.save_pretrained(tmp_path / "gpt2")
    arithmetic.tokenizer().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(InputError, match=r"^the model's log-probs move by [\d.]+ with 16 tokens of padding"):
        make(tmp_path / "gpt2", tmp_path).train()
    tokens, padded = np.arange(2, 6, dtype=np.int32), make(tmp_path / "gpt2", tmp_path, pad_to_multiple_of=21)
    with pytest.raises(InputError, match="with 21 tokens of padding"):  # 16 more would be padding already
        refuse_padding(padded, Row("a", tokens, tokens, tokens > 0, 0.0 * tokens, 0.0))


@pytest.mark.slow
def test_a_second_training_begins_with_an_empty_buffer(model: Path, tmp_path: Path) -> None:
    trainer = make(model, tmp_path, max_steps=4)
    trainer.train()
    trainer.train()
    assert trainer.lines[4].before == []


# A run that is followed, checkpoints.


def test_every_prompt_of_a_followed_run_is_generated_for(model: Path, tmp_path: Path) -> None:
    """The budget counts fresh prompts; replayed ones are no outcomes."""
    run = arithmetic.begin(tmp_path)
    seen: list[str] = []

    def reward(completions: list[str], gc_id: list[str], answer: list[str], **columns: Any) -> list[float]:
        seen.extend(gc_id)
        return arithmetic.right(completions, answer)

    args = replay_run.config(tmp_path / "out", num_train_epochs=3)
    given = {"train_dataset": dataset(run.folder), "model": str(model), "reward_funcs": reward, "args": args}
    trainer = ReplayGRPOTrainer(**given, replay=Replay(capacity=CAPACITY))
    attach(trainer, run.folder)
    trainer.train()
    assert seen == [gc_id for round_ in range(3) for gc_id in run.ids(round_) for _ in range(GROUP)]
    assert run.state["finished"]
    assert trainer.buffer.counts.replay_steps > 0
    for round_ in range(3):
        assert len(run.outcomes(round_).read_text().splitlines()) == 8 * GROUP


def test_a_resumed_training_is_one_that_was_never_ended(model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 8}
    whole = make(model, tmp_path / "whole", **options)
    whole.train()
    cut = make(model, tmp_path / "cut", **options)
    cut.add_callback(Ender(5))
    with pytest.raises(Ends):
        cut.train()
    again = make(model, tmp_path / "cut", **options)
    again.train(resume_from_checkpoint=True)
    assert again.lines == whole.lines[4:]
    logs = [trainer.state.log_history for trainer in (whole, again)]
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert losses[0] == losses[1]
    assert again.buffer.counts == whole.buffer.counts


def test_a_checkpoint_that_does_not_fit_is_refused(model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "max_steps": 4}
    make(model, tmp_path, **options).train()
    checkpoint = tmp_path / "checkpoint-4"
    options["max_steps"] = 8

    def resumed(**more: Any) -> None:
        make(model, tmp_path, **(options | more)).train(resume_from_checkpoint=str(checkpoint))

    with pytest.raises(OutputError, match="^the checkpoint's replay buffer has capacity 12 and this one"):
        resumed(replay=Replay(capacity=13))
    for other in ("temperature", "top_p"):
        with pytest.raises(InputError, match="checkpoint-4 has rollouts with temperature 1 and top_p 1, and"):
            resumed(**{other: 0.5})
    (checkpoint / state.NAME).unlink()
    with pytest.raises(OutputError, match=r"checkpoint-4 has no gaincurate_replay\.bin: it was saved by a"):
        resumed()
    trainer = make(model, tmp_path, **options, replay=Replay(capacity=CAPACITY, begin_empty=True))
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert [(line.step, bool(line.before)) for line in trainer.lines[:2]] == [(4, False), (5, True)]

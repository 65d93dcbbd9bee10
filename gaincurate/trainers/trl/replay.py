"""TRL's GRPO with rollout replay: a share of each batch is generated, the rest comes from the buffer.

The trainer class only overrides TRL 1.16.0's generation and loss. It converts TRL's tensors to groups and
back. The loss needs the ratio of the current policy to the policy that generated a replayed rollout.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad

from gaincurate.core.files import digest_bytes, make_folder
from gaincurate.core.schema import ID
from gaincurate.errors import InputError, OutcomeError, OutputError
from gaincurate.replay import state
from gaincurate.replay.buffer import ReplayBuffer, ReplayPlan
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.metrics import step_metrics, warning
from gaincurate.trainers.doctor.findings import Finding, RuleContext, ask, refuse
from gaincurate.trainers.replay_loss import Clip, anchored_advantages, importance_ratios
from gaincurate.trainers.session import reward_of
from gaincurate.trainers.trl.batching import resolved
from gaincurate.trainers.trl.checks import reward_missing, stops
from gaincurate.trainers.trl.profile import dealing, optimizer, saves_anywhere, window
from gaincurate.trainers.trl.rewards import judged, weighted

Array = npt.NDArray[Any]
Judged = Sequence[float | None]
"""Rewards of rollouts; None for a rollout that no reward function could judge."""

_log = logging.getLogger("gaincurate")
# These are averaged between two logs; the others are current values.
_OF_A_STEP = ("share", "age_mean", "age_max", "overlap")
_TEXT = "is more than text that the trainer itself generated, which is all that replay stores"
_ALLOWED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("loss_type", ("grpo", "bnpo", "dr_grpo", "dapo"), "clips no ratio by token; 'grpo' is the paper's mean"),
    ("importance_sampling_level", ("token",), "has no ratio for each token"),
    ("top_entropy_quantile", (1,), "would choose tokens by one threshold over fresh and replayed ones"),
    ("off_policy_mask_threshold", (None,), "drops replayed rollouts; Replay(max_age=...) limits their age"),
    ("beta", (0,), "needs a reference policy's log-probs of replayed rollouts, which are not made"),
    ("tools", ([], None), _TEXT),
    ("environment_factories", (None,), _TEXT),
    ("rollout_func", (None,), _TEXT),
    ("_is_vlm", (False,), _TEXT),
)
"""TRL's settings with the values that replay supports, the usual one first, and the reason."""
_REST = "with vLLM: its log-probs are of what is left after that, the trainer's of the whole vocabulary"
_TWICE = "would correct twice: replay's ratios are against what vLLM sampled with"
_ALLOWED_WITH_VLLM: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("vllm_importance_sampling_correction", (False,), _TWICE),
    ("top_p", (1, None), _REST),
    ("top_k", (0, -1, None), _REST),
    ("min_p", (None, 0), _REST),
    ("repetition_penalty", (1, None), _REST),
)
"""Further settings with vLLM, whose log-probs must be of the distribution that the trainer computes."""
_SHIFT, _MOVED = 16, 0.05  # tokens of padding in the test of log-probs, and their largest mean change


@dataclass(frozen=True, slots=True)
class Replay:
    """The options of replay.

    Args:
        capacity: C, the most groups in the buffer; the paper's 256 and 512 are half its batch and all of it.
        fresh_share: delta, the share of a batch's groups that is generated; the rest is replayed.
        max_age: optimizer updates after which a group is not replayed; None for no limit.
        clip: the centre of the clip: `one`, or `old` for pi_old / pi_behaviour, which costs a forward pass
            over replayed rollouts.
        correct: the name of the reward function for correctness, 0 to 1, if rewards are shaped; default: the
            weighted sum of all.
        begin_empty: resume with an empty buffer from a checkpoint that has none.
    """

    capacity: int
    fresh_share: float = 0.5
    max_age: int | None = None
    clip: Clip = "one"
    correct: str | None = None
    begin_empty: bool = False


def config_of(trainer: Any, replay: Replay) -> ReplayConfig:
    """The sizes of the buffer for a trainer; raises InputError if no group would ever be replayed."""
    args, size = trainer.args, trainer.num_generations
    batch = args.generation_batch_size // size
    return ReplayConfig(batch, size, replay.capacity, replay.fresh_share, replay.max_age, args.seed)


def check_replay(trainer: Any, replay: Replay, config: ReplayConfig) -> None:
    """Raise InputError for settings that replay does not support, with a sentence and a fix for each."""
    rules = (*dealing, *optimizer, window, saves_anywhere)
    shared, _ = ask(rules, resolved(trainer), RuleContext("live"))
    refuse([*_findings(trainer, replay, config), *shared], repr)


def _findings(trainer: Any, replay: Replay, config: ReplayConfig) -> Iterator[Finding]:
    stop = partial(stops, "replay")
    if replay.clip not in get_args(Clip):
        yield stop(f"clip={replay.clip!r} is unknown; it must be one of {', '.join(get_args(Clip))}")
    names = list(trainer.reward_func_names)
    if replay.correct is not None and names.count(replay.correct) != 1:
        yield reward_missing(names, replay.correct)
    args, processes = trainer.args, trainer.accelerator.num_processes
    parts, rollouts = processes * args.steps_per_generation, config.fresh_groups * config.group_size
    if rollouts % parts:
        yield stop(
            f"fresh_share {config.fresh_share:g} of {config.batch_groups} prompts is {config.fresh_groups}, "
            f"whose {rollouts} rollouts do not divide by {parts}, {processes} processes with "
            f"{args.steps_per_generation} micro-batches each",
            "take a larger per_device_train_batch_size, now "
            f"{args.per_device_train_batch_size}, with fewer steps_per_generation, or another fresh_share",
        )
    if not hasattr(trainer.train_dataset, "__getitem__"):
        kind = type(trainer.train_dataset).__name__
        why = "which TRL deals out in whole batches; replay needs fewer prompts per step"
        yield stop(f"train_dataset is a {kind}, {why}", "give a map-style dataset")
    given = trainer.args.generation_kwargs or {}
    for name, good, why in (*_ALLOWED, *(_ALLOWED_WITH_VLLM if trainer.use_vllm else ())):
        value = given.get(name, getattr(trainer, name))
        if value not in good:
            yield stop(f"{name}={value!r} {why}", **{name: good[0]})


class Row(NamedTuple):
    """One rollout without padding. `logprobs` is of the behaviour policy, and 0 if the mask is False."""

    gc_id: str
    prompt_ids: Array
    completion_ids: Array
    mask: Array
    logprobs: Array
    advantage: float
    replayed: bool = False


def rows_of(
    inputs: Sequence[Mapping[str, Any]], completions: Sequence[Sequence[int]], output: Mapping[str, Any]
) -> list[Row]:
    """The rollouts that this process generated, `[local]`, still without log-probs.

    `inputs` has a row of the dataset for each rollout, `completions` its token ids without padding, and
    `output` is the result of TRL's `_generate_and_score_completions`.
    """
    prompts, prompt_mask = output["prompt_ids"].cpu(), output["prompt_mask"].cpu().bool()
    mask = output["completion_mask"].cpu().numpy().astype(bool)
    advantages = output["advantages"].float().cpu().tolist()
    rows = []
    for place, source in enumerate(inputs):
        prompt = prompts[place][prompt_mask[place]].numpy().astype(np.int32)
        ids = np.asarray(completions[place], np.int32)
        gc_id = str(source[ID]) if ID in source else digest_bytes(prompt.tobytes())
        none = np.zeros(len(ids), np.float32)
        rows.append(Row(gc_id, prompt, ids, mask[place, : len(ids)], none, advantages[place]))
    return rows


def with_logprobs(rows: Sequence[Row], logprobs: Sequence[Array]) -> list[Row]:
    """The rows with the behaviour policy's log-probs; tokens without one are masked out of the loss."""
    scored = []
    for row, given in zip(rows, logprobs, strict=True):
        mask = row.mask & np.isfinite(given)
        scored.append(row._replace(mask=mask, logprobs=np.where(mask, given, 0).astype(np.float32)))
    return scored


def ragged(padded: torch.Tensor, rows: Sequence[Row]) -> list[Array]:
    """The rows of `[rows, tokens]` without the padding on the right, as float32 arrays."""
    whole = padded.detach().float().cpu().numpy()
    return [whole[place, : len(row.completion_ids)] for place, row in enumerate(rows)]


def groups_of(
    rows: Sequence[Row], rewards: Judged, correct: Judged, size: int, **about: Any
) -> list[RolloutGroup | None]:
    """The groups of a generation, `[groups]`; None for one with a rollout that could not be judged.

    `rows`, `rewards` and `correct` (0 to 1) are of all processes in order, `[groups * size]`, None if not
    judged, and `about` has the other fields of the groups. Raises OutcomeError if the numbers do not fit, a
    group has several prompts, or a correctness is outside 0 to 1.
    """
    if len(rows) != len(rewards) or len(rows) % size:
        raise OutcomeError(
            f"{len(rows)} rollouts came with {len(rewards)} rewards, which do not make groups of {size}: is "
            "there a wrapper between the trainer and its reward functions?"
        )
    groups: list[RolloutGroup | None] = []
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        values = [[value for value in each[part] if value is not None] for each in (rewards, correct)]
        if min(map(len, values)) < size:
            groups.append(None)
            continue
        _check(rows[part], values[1])
        names, prompts, ids, masks, logprobs, advantages, _ = zip(*rows[part], strict=True)
        given, right, advantage = map(np.asarray, (*values, advantages))
        group = RolloutGroup(names[0], prompts[0], ids, masks, logprobs, given, right, advantage, **about)
        groups.append(group)
    return groups


def _check(part: Sequence[Row], correct: Sequence[float]) -> None:
    first = part[0]
    for row in part:
        if row.gc_id != first.gc_id or not np.array_equal(row.prompt_ids, first.prompt_ids):
            raise OutcomeError(
                f"the {len(part)} rollouts of a group are of {first.gc_id!r} and of {row.gc_id!r}: the rows "
                "are not in the order of TRL's sampler, so advantages are wrong.",
                gc_id=first.gc_id,
            )
    if wrong := [value for value in correct if not 0 <= value <= 1]:
        raise OutcomeError(
            f"a reward of {first.gc_id!r} is {wrong[0]:g}, and replay needs correctness from 0 to 1: name "
            "its reward function, Replay(..., correct=NAME).",
            gc_id=first.gc_id,
        )


def rows_of_groups(groups: Sequence[RolloutGroup]) -> list[Row]:
    """The rollouts of stored groups, group by group."""
    return [
        Row(group.gc_id, group.prompt_ids, ids, mask, logprobs, float(advantage), replayed=True)
        for group in groups
        for (ids, mask, logprobs), advantage in zip(group.rollouts, group.advantages, strict=True)
    ]


def batched(trainer: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """The rows, `[local]`, as a batch of TRL: prompts are padded on the left, completions on the right.

    Returns:
        `prompt_ids`, `prompt_mask`, `completion_ids`, `completion_mask`, `tool_mask` of int64 and
        `behaviour_logps` of float32, `[local, length]` each; `advantages` of float32 and `replayed` of bool,
        `[local]`. `completion_mask` is for attention, and TRL's `tool_mask` for the loss.
    """
    fill = trainer._tokenizer.pad_token_id
    prompts, completions = [row.prompt_ids for row in rows], [row.completion_ids for row in rows]
    made = {
        "prompt_ids": padded(trainer, prompts, torch.int64, fill, "left"),
        "prompt_mask": padded(trainer, [np.ones_like(ids) for ids in prompts], torch.int64, 0, "left"),
        "completion_ids": padded(trainer, completions, torch.int64, fill),
        "completion_mask": padded(trainer, [np.ones_like(ids) for ids in completions], torch.int64),
        "tool_mask": padded(trainer, [row.mask for row in rows], torch.int64),
        "behaviour_logps": padded(trainer, [row.logprobs for row in rows], torch.float32),
        "advantages": torch.tensor([row.advantage for row in rows], dtype=torch.float32),
        "replayed": torch.tensor([row.replayed for row in rows], dtype=torch.bool),
    }
    return {name: tensor.to(trainer.accelerator.device) for name, tensor in made.items()}


def padded(
    trainer: Any, values: Sequence[Array], kind: torch.dtype, fill: int = 0, side: str = "right"
) -> torch.Tensor:
    """Ragged values by token, padded as by the trainer, `[local, length]`."""
    tensors = [torch.tensor(each, dtype=kind) for each in values]
    whole: torch.Tensor = pad(tensors, fill, side, trainer.pad_to_multiple_of)
    return whole


def forward(trainer: Any, rows: Sequence[Row]) -> list[Array]:
    """Log-probs of the rows' completions, `[rows]` arrays of float32."""
    made = batched(trainer, rows)
    ids = torch.cat([made["prompt_ids"], made["completion_ids"]], dim=1)
    mask = torch.cat([made["prompt_mask"], made["completion_mask"]], dim=1)
    model, length = trainer.model, made["completion_ids"].size(1)
    with torch.no_grad(), disable_gradient_checkpointing(model, trainer.args.gradient_checkpointing_kwargs):
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            model, ids, mask, length, batch_size=trainer.args.per_device_train_batch_size
        )
    return ragged(logps, rows)


def refuse_padding(trainer: Any, row: Row) -> None:
    """Raise InputError if padding in front of a rollout changes its log-probs: positions are absolute."""
    shift = max(_SHIFT, trainer.pad_to_multiple_of or 0)  # a smaller shift might equal padding that exists
    longer = row._replace(prompt_ids=np.append(np.repeat(row.prompt_ids[:1], shift), row.prompt_ids))
    (plain,), (moved, _) = forward(trainer, [row]), forward(trainer, [row, longer])
    change = float(abs(plain - moved).mean()) if len(plain) else 0.0
    if change > _MOVED:
        raise InputError(
            f"the model's log-probs move by {change:.2g} with {shift} tokens of padding in front, so "
            "replayed rollouts would have other ratios: take a model with relative positions."
        )


class Replays:
    """A mixin: `class Trainer(Replays, GRPOTrainer)` takes `replay=` and replays.

    Every process has the same buffer: it gathers the groups of all processes, and draws with the same seed.
    `prompts_a_generation` counts the distinct prompts that a step generates for, on all processes together.
    Raises an InputError with a sentence for each setting that replay does not support.
    """

    def __init__(self, *args: Any, replay: Replay, **options: Any) -> None:
        super().__init__(*args, **options)
        trainer: Any = self
        self._replay, sizes = replay, config_of(trainer, replay)
        check_replay(trainer, replay, sizes)
        self.prompts_a_generation = sizes.fresh_groups
        self.buffer = ReplayBuffer(sizes)
        self._rewards: list[list[float]] = []  # `[rollouts, functions]` of all processes
        self._completions: list[Any] = []
        self._logps: torch.Tensor | None = None
        self._padding_is_harmless = False

    # Generation of the fresh share of a batch.

    def get_train_dataloader(self: Any) -> Any:
        """TRL's data loader, with batches of only the fresh rollouts."""
        rollouts = self.prompts_a_generation * self.num_generations
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            batch_size=rollouts // self.accelerator.num_processes,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self: Any, dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(dataset)  # type: ignore[misc]
        sampler.batch_size = self.prompts_a_generation
        return sampler

    def _generate_and_score_completions(self: Any, inputs: list[dict[str, Any]]) -> Any:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        plan = self._plan()
        output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        fresh = rows_of(inputs, self._completions, output)
        replayed = rows_of_groups(plan.replayed)
        share = len(replayed) // self.accelerator.num_processes
        first = self.accelerator.process_index * share
        replayed = replayed[first : first + share]
        if not self._padding_is_harmless:
            refuse_padding(self, fresh[0])
            self._padding_is_harmless = True
        around_old, known = self._replay.clip == "old", output.get("old_per_token_logps")
        old: list[Array] = []
        if around_old or not self.use_vllm:  # TRL computes them if a generation is used for several steps
            old = forward(self, fresh) if known is None else ragged(known, fresh)
        sampled = ragged(output["sampling_per_token_logps"], fresh) if self.use_vllm else old
        fresh = with_logprobs(fresh, sampled)
        self._store(self._groups(fresh))
        if around_old and replayed:
            old += forward(self, replayed)
        return self._batch([*fresh, *replayed], old)

    def _store(self: Any, groups: list[RolloutGroup | None]) -> None:
        fresh = [group for group in groups if group is not None]
        self.buffer.insert(fresh)
        logged = self._metrics["train"]
        for name, value in step_metrics(self.buffer, fresh).items():
            if name.removeprefix("replay/") not in _OF_A_STEP:
                logged[name] = [value]
            elif name == "replay/share" or self.buffer.last_plan.replayed:
                logged[name].append(value)
        logged["replay/unjudged"].append(float(len(groups) - len(fresh)))
        if (text := warning(self.buffer)) is not None and self.accelerator.is_main_process:
            _log.warning("%s", text)

    def _plan(self: Any) -> ReplayPlan:
        """The step's plan; every process makes the same one, or OutputError is raised."""
        plan: ReplayPlan = self.buffer.plan(self.buffer.step + 1, self.state.global_step)
        drawn = gather_object([[group.key for group in plan.replayed]])
        if any(keys != drawn[0] for keys in drawn):
            raise OutputError("the processes' replay buffers differ: resume from the last checkpoint.")
        return plan

    def _calculate_rewards(self: Any, inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, ids)  # type: ignore[misc]
        if self.model.training:
            self._rewards, self._completions = rewards.tolist(), ids
        return rewards

    def _groups(self: Any, fresh: list[Row]) -> list[RolloutGroup | None]:
        weights = [reward_of(weight) for weight in self.reward_weights.tolist()]
        rewards = correct = [weighted(weights, map(reward_of, row)) for row in self._rewards]
        if self._replay.correct is not None:
            place = self.reward_func_names.index(self._replay.correct)
            correct = [judged(reward_of(row[place])) for row in self._rewards]
        return groups_of(
            gather_object(fresh),
            rewards,
            correct,
            self.num_generations,
            policy_version=self.buffer.policy_version,
            step=self.buffer.step,
            temperature=float(self.temperature),
            top_p=float(self.top_p),
            logprobs_of="sampled" if self.use_vllm else "tempered",
        )

    # Training on fresh and replayed rollouts.

    def _batch(self: Any, rows: list[Row], old: list[Array]) -> dict[str, torch.Tensor]:
        """TRL's generation batch: fresh rows, then replayed ones. TRL shuffles and splits it.

        TRL clips pi / `old_per_token_logps` around 1. With the behaviour policy's log-probs as
        `old_per_token_logps`, this is the paper's loss (arXiv 2506.05316, section 2.2).
        """
        batch = batched(self, rows)
        behaviour = batch["old_per_token_logps"] = batch["behaviour_logps"]
        if self._replay.clip == "old":
            before = padded(self, old, torch.float32).to(self.accelerator.device)
            anchored = anchored_advantages(batch["advantages"], before, behaviour, batch["tool_mask"])
            batch |= {"advantages": anchored, "old_per_token_logps": before}
        batch["num_items_in_batch"] = self.accelerator.gather(batch["tool_mask"].sum()).sum()
        return batch

    def _get_per_token_logps_and_entropies(self: Any, *args: Any, **options: Any) -> Any:
        computed = super()._get_per_token_logps_and_entropies(*args, **options)  # type: ignore[misc]
        self._logps = computed[0].detach()
        return computed

    def _compute_loss(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        loss = super()._compute_loss(model, inputs)  # type: ignore[misc]
        if "replayed" in inputs:  # not in an evaluation
            self._log_ratios(self._logps, inputs)
        self._logps = None
        return loss

    def _log_ratios(self: Any, logps: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> None:
        """Log the ratios of replayed tokens; `logps` is `[rollouts, tokens]`, of the trained policy."""
        counted = inputs["tool_mask"].bool() & inputs["replayed"].unsqueeze(-1)
        ratios = importance_ratios(logps.float(), inputs["behaviour_logps"], counted)[counted].double()
        sums = torch.stack([torch.ones_like(ratios).sum(), ratios.sum(), ratios.square().sum()])
        largest = ratios.max() if len(ratios) else ratios.new_zeros(())
        count, total, squares = self.accelerator.reduce(sums, reduction="sum").tolist()
        largest = self.accelerator.gather(largest).max().item()
        if count:
            logged = self._metrics["train"]
            logged["replay/ratio_mean"].append(total / count)
            logged["replay/ratio_max"].append(largest)
            logged["replay/ratio_ess"].append(total**2 / (count * squares))

    # Checkpoints: the state is written before the file that marks a checkpoint as complete.

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            make_folder(folder)
            state.save(self.buffer, folder / state.NAME)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        state.load(self.buffer, Path(checkpoint) / state.NAME, begin_empty=self._replay.begin_empty)
        for group in self.buffer.groups:
            if group.temperature != self.temperature or group.top_p != self.top_p:
                raise InputError(
                    f"{checkpoint} has rollouts with temperature {group.temperature:g} and top_p "
                    f"{group.top_p:g}, and the trainer has {self.temperature:g} and {self.top_p:g}: set the "
                    "values of the checkpoint."
                )

    def train(self: Any, *args: Any, **options: Any) -> Any:
        """TRL's `train`, with an empty buffer or a checkpoint's."""
        self.buffer = ReplayBuffer(self.buffer.config)
        return super().train(*args, **options)  # type: ignore[misc]


class ReplayGRPOTrainer(Replays, GRPOTrainer):  # type: ignore[misc]
    """`trl.GRPOTrainer` that replays; see `Replays`."""

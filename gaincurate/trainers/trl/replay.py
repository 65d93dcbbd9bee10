"""TRL's GRPO with rollout replay: a share of each batch is generated, the rest comes from the buffer.

The trainer class overrides where TRL generates and where it takes losses, nothing else. TRL's own log lines
gain what replay did to the step. Settings that would break it are refused here (TRL 1.16.0). What also holds
for a run without replay (how rows are dealt, when checkpoints are saved) is in `profile.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from gaincurate.core.files import make_folder
from gaincurate.errors import InputError, OutputError
from gaincurate.replay import state
from gaincurate.replay.buffer import Plan, ReplayBuffer
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.metrics import step_metrics, warning
from gaincurate.trainers.doctor.findings import Context, Finding, ask, refuse
from gaincurate.trainers.replay_loss import Clip, anchored_advantages, importance_ratios
from gaincurate.trainers.session import reward_of, sum_of
from gaincurate.trainers.trl.batching import resolved
from gaincurate.trainers.trl.checks import reward_missing, stops
from gaincurate.trainers.trl.profile import dealing, optimizer, saves_anywhere, window
from gaincurate.trainers.trl.replay_rows import (
    Array,
    Row,
    batched,
    forward,
    groups_of,
    padded,
    ragged,
    refuse_padding,
    rows_of,
    rows_of_groups,
    with_logprobs,
)

_log = logging.getLogger("gaincurate")
# Averaged between two logs; the others are current values.
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
"""The values of TRL's settings under which replay is right, the usual one first, and why."""
_REST = "with vLLM: its log-probs are of what is left after that, the trainer's of the whole vocabulary"
_TWICE = "would correct twice: replay's ratios are against what vLLM sampled with"
_ALLOWED_WITH_VLLM: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("vllm_importance_sampling_correction", (False,), _TWICE),
    ("top_p", (1, None), _REST),
    ("top_k", (0, -1, None), _REST),
    ("min_p", (None, 0), _REST),
    ("repetition_penalty", (1, None), _REST),
)
"""vLLM gives the log-probs of what it drew from, and a trainer's are of the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The options of replay.

    Args:
        capacity: prompts with their rollouts in the buffer at most, C; the paper's 256 and 512 are half and
            the whole of its batch.
        fresh_share: of a generation's prompts that are generated for, delta; the rest comes from the buffer.
        max_age: optimizer updates after which a group is not replayed; None for no limit.
        clip: what a ratio is clipped around: `one`, or `old` for pi_old / pi_behaviour, which costs a forward
            pass over what is replayed.
        correct: the name of the reward function that tells right from wrong, 0 to 1, for rewards that are
            shaped; the weighted sum of all, if not given.
        begin_empty: resume also from a checkpoint of a trainer that did not replay.
    """

    capacity: int
    fresh_share: float = 0.5
    max_age: int | None = None
    clip: Clip = "one"
    correct: str | None = None
    begin_empty: bool = False


def config_of(trainer: Any, replay: Replay) -> ReplayConfig:
    """The sizes of the buffer for a trainer; raises InputError under which nothing would be replayed."""
    args = trainer.args
    return ReplayConfig(
        batch_groups=args.generation_batch_size // trainer.num_generations,
        group_size=trainer.num_generations,
        capacity=replay.capacity,
        fresh_share=replay.fresh_share,
        max_age=replay.max_age,
        seed=args.seed,
    )


def check_replay(trainer: Any, replay: Replay, config: ReplayConfig) -> None:
    """Refuse settings under which rollouts would be replayed wrongly, or that do not work with it yet."""
    rules = (*dealing, *optimizer, window, saves_anywhere)
    shared, _ = ask(rules, resolved(trainer), Context("live"))
    refuse([*_findings(trainer, replay, config), *shared], repr)


def _findings(trainer: Any, replay: Replay, config: ReplayConfig) -> Iterator[Finding]:
    if replay.clip not in get_args(Clip):
        yield stops("replay", f"clip={replay.clip!r} is not there; it is one of {', '.join(get_args(Clip))}")
    names = list(trainer.reward_func_names)
    if replay.correct is not None and names.count(replay.correct) != 1:
        yield reward_missing(names, replay.correct)
    args, processes = trainer.args, trainer.accelerator.num_processes
    parts, rollouts = processes * args.steps_per_generation, config.fresh_groups * config.group_size
    if rollouts % parts:
        yield stops(
            "replay",
            f"fresh_share {config.fresh_share:g} of {config.batch_groups} prompts is {config.fresh_groups}, "
            f"whose {rollouts} rollouts do not divide by {parts}, {processes} processes with "
            f"{args.steps_per_generation} micro-batches each",
            "take a larger per_device_train_batch_size, now "
            f"{args.per_device_train_batch_size}, with fewer steps_per_generation, or another fresh_share",
        )
    if not hasattr(trainer.train_dataset, "__getitem__"):
        yield stops(
            "replay",
            f"train_dataset is a {type(trainer.train_dataset).__name__}, which TRL deals out in whole "
            "batches; replay needs fewer prompts per step",
            "give a map-style dataset",
        )
    given = trainer.args.generation_kwargs or {}
    for name, good, why in (*_ALLOWED, *(_ALLOWED_WITH_VLLM if trainer.use_vllm else ())):
        value = given.get(name, getattr(trainer, name))
        if value not in good:
            yield stops("replay", f"{name}={value!r} {why}", **{name: good[0]})


class Replays:
    """A mixin: `class Trainer(Replays, GRPOTrainer)` takes `replay=` and replays.

    Every process holds the same buffer: it puts together what all generated, and draws by the same seed.

    Attributes:
        buffer: what is stored.
        prompts_a_generation: distinct prompts that a step generates for, on all processes together.

    Args:
        replay: the sizes and choices.
        **options: the trainer's own.

    Raises:
        InputError: settings under which rollouts would be replayed wrongly; a sentence for each.
    """

    def __init__(self, *args: Any, replay: Replay, **options: Any) -> None:
        super().__init__(*args, **options)
        trainer: Any = self
        self._replay, self._sizes = replay, config_of(trainer, replay)
        check_replay(trainer, replay, self._sizes)
        self.prompts_a_generation = self._sizes.fresh_groups
        self.buffer = ReplayBuffer(self._sizes)
        self._rewards: list[list[float]] = []  # `[rollouts, functions]` of all processes
        self._completions: list[Any] = []
        self._logps: torch.Tensor | None = None
        self._padding_is_harmless = False

    # What is generated: the share of a batch that is not replayed.

    def get_train_dataloader(self: Any) -> Any:
        """TRL's, with batches of the fresh rollouts alone."""
        rollouts = self.prompts_a_generation * self.num_generations
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            batch_size=rollouts // self.accelerator.num_processes,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self: Any, dataset: Any = None) -> Any:
        return RepeatSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.prompts_a_generation,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

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
        if around_old or not self.use_vllm:  # TRL has them already where a generation feeds several steps
            old = forward(self, fresh) if known is None else ragged(known, fresh)
        sampled = ragged(output["sampling_per_token_logps"], fresh) if self.use_vllm else old
        fresh = with_logprobs(fresh, sampled)
        self._store(self._groups(fresh))
        if around_old and replayed:
            old += forward(self, replayed)
        return self._batch([*fresh, *replayed], old)

    def _store(self: Any, groups: list[RolloutGroup | None]) -> None:
        judged = [group for group in groups if group is not None]
        self.buffer.insert(judged)
        logged = self._metrics["train"]
        for name, value in step_metrics(self.buffer, judged).items():
            if name.removeprefix("replay/") not in _OF_A_STEP:
                logged[name] = [value]
            elif name == "replay/share" or self.buffer.last_plan.replayed:
                logged[name].append(value)
        logged["replay/unjudged"].append(float(len(groups) - len(judged)))
        self._warn(warning(self.buffer))

    def _warn(self: Any, text: str | None) -> None:
        if text is not None and self.accelerator.is_main_process:
            _log.warning("%s", text)

    def _plan(self: Any) -> Plan:
        """The step's plan, which every process makes for itself, and the same."""
        plan: Plan = self.buffer.plan(self.buffer.step + 1, self.state.global_step)
        drawn = gather_object([[group.key for group in plan.replayed]])
        if any(keys != drawn[0] for keys in drawn):
            raise OutputError(
                "the processes' replay buffers are not the same any more: resume from the last checkpoint."
            )
        return plan

    def _calculate_rewards(
        self: Any, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]
        if self.model.training:
            self._rewards, self._completions = rewards.tolist(), completion_ids_list
        return rewards

    def _weighted(self: Any, row: list[float]) -> float:
        """A rollout's reward, from `[functions]`, weighted as TRL does."""
        both = zip(self.reward_weights.tolist(), row, strict=True)
        parts = [reward_of(weight) * reward_of(value) for weight, value in both if not math.isnan(value)]
        return sum_of(parts) if parts else math.nan

    def _groups(self: Any, fresh: list[Row]) -> list[RolloutGroup | None]:
        rewards = correct = [self._weighted(row) for row in self._rewards]
        if self._replay.correct is not None:
            place = self.reward_func_names.index(self._replay.correct)
            correct = [reward_of(row[place]) for row in self._rewards]
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

    # What is trained on.

    def _batch(self: Any, rows: list[Row], old: list[Array]) -> dict[str, torch.Tensor]:
        """TRL's generation batch: fresh rows, then replayed ones, to be shuffled and split by TRL.

        TRL clips pi / `old_per_token_logps` around 1. With the behaviour policy's log-probs in their place,
        that is the paper's loss (arXiv 2506.05316, section 2.2).
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
        """Log the ratios of the replayed rollouts' tokens in a micro-batch, of all processes.

        `logps` is `[rollouts, tokens]`, of the policy that is trained.
        """
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

    # Checkpoints: the state is written before the file that makes one whole.

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
                    f"{checkpoint} has rollouts that were sampled with temperature {group.temperature:g} and "
                    f"top_p {group.top_p:g}, and the trainer samples with {self.temperature:g} and "
                    f"{self.top_p:g}: put the settings back."
                )

    def train(self: Any, *args: Any, **options: Any) -> Any:
        """TRL's, with an empty buffer or a checkpoint's; says at the end if nothing was ever replayed."""
        self.buffer = ReplayBuffer(self._sizes)
        output = super().train(*args, **options)  # type: ignore[misc]
        counts = self.buffer.counts
        if counts.steps and not counts.replay_steps:
            self._warn(f"nothing was replayed in this training. {warning(self.buffer, counts.waiting)}")
        return output


class ReplayGRPOTrainer(Replays, GRPOTrainer):  # type: ignore[misc]
    """`trl.GRPOTrainer` that replays; see `Replays`."""

"""TRL's GRPO with rollout replay: a share of each batch is generated, the rest comes from the buffer.

The trainer class overrides where TRL generates and where it takes losses, nothing else. TRL's own log lines
gain what replay did to the step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from gaincurate.errors import InputError, OutputError
from gaincurate.replay import state
from gaincurate.replay.buffer import Plan, ReplayBuffer
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.ledger import Ledger
from gaincurate.replay.metrics import step_metrics, warning
from gaincurate.trainers.replay_loss import anchored_advantages, importance_ratios
from gaincurate.trainers.session import reward_of
from gaincurate.trainers.trl.replay_batching import Replay, check_replay, config_of
from gaincurate.trainers.trl.replay_rows import (
    Array,
    Row,
    Scores,
    groups_of,
    matrix,
    old_logps,
    ragged,
    refuse_padding,
    rows_of,
    rows_of_groups,
    tensors,
    with_logprobs,
)

_log = logging.getLogger("gaincurate")
_OF_A_STEP = (
    "share",
    "age_mean",
    "age_max",
    "overlap",
)  # averaged between two logs; the others are as they stand


class Notes:
    """What one trainer says.

    Args:
        trainer: a `trl.GRPOTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def generation(self, buffer: ReplayBuffer, fresh: Sequence[RolloutGroup], unjudged: int) -> None:
        """Log what one generation brought, and say so where nothing is replayed for long.

        Args:
            buffer: after its insert.
            fresh: groups that were generated and judged.
            unjudged: how many more there were.
        """
        logged = self._trainer._metrics["train"]
        for name, value in step_metrics(buffer, fresh).items():
            if name.removeprefix("replay/") not in _OF_A_STEP:
                logged[name] = [value]
            elif name == "replay/share" or buffer.last_plan.replayed:
                logged[name].append(value)
        logged["replay/unjudged"].append(float(unjudged))
        if (why := warning(buffer)) is not None:
            self._warn(why)

    def ratios(self, logps: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> None:
        """Log the ratios of the replayed rollouts' tokens in a micro-batch, of all processes.

        Args:
            logps: `[rollouts, tokens]`, of the policy that is trained.
            inputs: the micro-batch.
        """
        accelerator = self._trainer.accelerator
        counted = inputs["tool_mask"].bool() & inputs["replayed"].unsqueeze(-1)
        ratios = importance_ratios(logps.float(), inputs["behaviour_logps"], counted)[counted].double()
        sums = torch.stack([torch.ones_like(ratios).sum(), ratios.sum(), ratios.square().sum()])
        largest = ratios.max() if len(ratios) else ratios.new_zeros(())
        count, total, squares = accelerator.reduce(sums, reduction="sum").tolist()
        largest = accelerator.gather(largest).max().item()
        if count:
            logged = self._trainer._metrics["train"]
            logged["replay/ratio_mean"].append(total / count)
            logged["replay/ratio_max"].append(largest)
            logged["replay/ratio_ess"].append(total**2 / (count * squares))

    def end(self, buffer: ReplayBuffer) -> None:
        """Say so, if a training ends and nothing was ever replayed."""
        counts = buffer.counts
        if counts.steps and not counts.replay_steps:
            self._warn(f"nothing was replayed in this training. {warning(buffer, counts.waiting)}")

    def _warn(self, text: str) -> None:
        if self._trainer.accelerator.is_main_process:
            _log.warning("%s", text)


__all__ = ["Replay", "ReplayGRPOTrainer", "Replays"]


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
        self._notes = Notes(trainer)
        self._ledger: Ledger | None = None
        self._heard: tuple[Scores, list[Any]] | None = None
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
        scores, completions = self._heard
        fresh = rows_of(inputs, completions, output)
        replayed = self._own_share(rows_of_groups(plan.replayed))
        known, around_old = output.get("old_per_token_logps"), self._replay.clip == "old"
        old = old_logps(self, fresh, replayed, known, of_all=around_old)
        if not self._padding_is_harmless:
            refuse_padding(self, fresh[0])
            self._padding_is_harmless = True
        sampled = output.get("sampling_per_token_logps")
        fresh = with_logprobs(fresh, ragged(sampled, fresh) if self.use_vllm else old[: len(fresh)])
        self._store(self._groups(fresh, scores))
        return self._batch([*fresh, *replayed], old)

    def _store(self: Any, groups: list[RolloutGroup | None]) -> None:
        judged = [group for group in groups if group is not None]
        self.buffer.insert(judged)
        if self._ledger is not None:
            self._ledger.append(judged)
        self._notes.generation(self.buffer, judged, len(groups) - len(judged))

    def _plan(self: Any) -> Plan:
        """The step's plan, which every process makes for itself, and the same."""
        plan: Plan = self.buffer.plan(self.buffer.step + 1, self.state.global_step)
        told = gather_object([[group.key for group in plan.replayed]])
        if any(keys != told[0] for keys in told):
            raise OutputError(
                "the processes' replay buffers are not the same any more: resume from the last checkpoint."
            )
        return plan

    def _calculate_rewards(
        self: Any, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]
        if self.model.training:
            self._heard = (self._scores(rewards.tolist()), completion_ids_list)
        return rewards

    def _scores(self: Any, rewards: list[list[float]]) -> Scores:
        """What each rollout got, from `[rollouts, functions]`; weighed as TRL does."""
        weights = [reward_of(weight) for weight in self.reward_weights.tolist()]
        sums = []
        for row in rewards:
            both = zip(weights, row, strict=True)
            judged = [weight * reward_of(value) for weight, value in both if not math.isnan(value)]
            sums.append(math.fsum(judged) if judged else math.nan)
        if self._replay.correct is None:
            return Scores(sums, sums)
        place = self.reward_func_names.index(self._replay.correct)
        return Scores(sums, [reward_of(row[place]) for row in rewards])

    def _own_share(self: Any, rows: list[Row]) -> list[Row]:
        share = len(rows) // self.accelerator.num_processes
        start = self.accelerator.process_index * share
        return rows[start : start + share]

    def _groups(self: Any, fresh: list[Row], scores: Scores) -> list[RolloutGroup | None]:
        return groups_of(
            gather_object(fresh),
            scores,
            size=self.num_generations,
            version=self.buffer.policy_version,
            step=self.buffer.step,
            temperature=float(self.temperature),
            top_p=float(self.top_p),
            logprobs_of="sampled" if self.use_vllm else "tempered",
        )

    # What is trained on.

    def _batch(self: Any, rows: list[Row], old: list[Array]) -> dict[str, torch.Tensor]:
        """TRL's generation batch: fresh rows, then replayed ones, to be shuffled and split by TRL."""
        found = tensors(self, rows)
        behaviour, mask = found["behaviour_logps"], found["tool_mask"]
        found["old_per_token_logps"] = behaviour
        if self._replay.clip == "old":
            before = matrix(old, multiple=self.pad_to_multiple_of, device=self.accelerator.device)
            found["advantages"] = anchored_advantages(found["advantages"], before, behaviour, mask)
            found["old_per_token_logps"] = before
        found["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        return found

    def _get_per_token_logps_and_entropies(self: Any, *args: Any, **options: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **options)  # type: ignore[misc]
        self._logps = found[0].detach()
        return found

    def _compute_loss(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        loss = super()._compute_loss(model, inputs)  # type: ignore[misc]
        if "replayed" in inputs:  # not in an evaluation
            self._notes.ratios(self._logps, inputs)
        self._logps = None
        return loss

    # Checkpoints: the state is written before the file that makes one whole.

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            state.save(self.buffer, folder / state.NAME)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None:
            self._restore(Path(checkpoint))

    def _restore(self: Any, checkpoint: Path) -> None:
        path = checkpoint / state.NAME
        if not path.exists():
            if self._replay.begin_empty:
                return
            raise OutputError(
                f"{checkpoint} has no {state.NAME}: it was saved by a trainer that did not replay. Resume "
                "from one that has it, or let it begin empty: Replay(..., begin_empty=True)."
            )
        state.load(self.buffer, path)
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
        with self._open_ledger() as self._ledger:
            found = super().train(*args, **options)  # type: ignore[misc]
        self._ledger = None
        self._notes.end(self.buffer)
        return found

    def _open_ledger(self: Any) -> Any:
        """The ledger on the one process that writes it; None on the others."""
        if self._replay.ledger is None or not self.accelerator.is_main_process:
            return nullcontext()
        return Ledger(self._replay.ledger, keep_versions=self._replay.ledger_versions)


class ReplayGRPOTrainer(Replays, GRPOTrainer):  # type: ignore[misc]
    """`trl.GRPOTrainer` that replays; see `Replays`."""

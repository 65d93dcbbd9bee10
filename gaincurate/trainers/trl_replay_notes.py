"""What a TRL trainer's log says of replay: takes plans, groups and ratios, yields metrics and warnings.

Metrics go into TRL's own, under `replay/`, and are averaged over the steps between two logs. Read in TRL
1.16.0. Knows nothing of how rollouts come and go.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gaincurate.replay.buffer import Plan, ReplayBuffer
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.group import RolloutGroup
from gaincurate.trainers.replay_loss import importance_ratios

_log = logging.getLogger("gaincurate")
_PATIENCE = 10  # generations without replay until it is said, and then ten times as many


class Notes:
    """What one trainer says.

    Args:
        trainer: a `trl.GRPOTrainer`.
        sizes: of the buffer.
    """

    def __init__(self, trainer: Any, sizes: ReplayConfig) -> None:
        self._trainer, self._sizes = trainer, sizes

    def generation(self, buffer: ReplayBuffer, plan: Plan, groups: Sequence[RolloutGroup | None]) -> None:
        """Log what one generation brought: shares, ages, tokens.

        Args:
            buffer: after its insert.
            plan: of the generation.
            groups: that were generated; None for one that nobody could judge.
        """
        fresh, replayed = [group for group in groups if group is not None], plan.replayed
        generated = sum(group.tokens for group in fresh)
        self._log(
            share=len(replayed) / (len(groups) + len(replayed)),
            buffer=len(buffer),
            informative=sum(group.informative for group in fresh) / len(groups),
            unjudged=(len(groups) - len(fresh)) / len(groups),
            tokens_generated=generated,
            tokens_trained=generated + sum(group.tokens for group in replayed),
        )
        if replayed:
            ages = [buffer.policy_version - group.policy_version for group in replayed]
            ids = {group.gc_id for group in fresh}
            overlap = sum(group.gc_id in ids for group in replayed) / len(replayed)
            self._log(age_mean=sum(ages) / len(ages), age_max=max(ages), overlap=overlap)
        waiting = buffer.counts.waiting
        while waiting > _PATIENCE and waiting % 10 == 0:
            waiting //= 10
        if waiting == _PATIENCE:
            self._warn(f"{buffer.counts.waiting:,} generations without replay: {self._why(buffer)}")

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
            self._log(ratio_mean=total / count, ratio_max=largest, ess=total**2 / (count * squares))

    def end(self, buffer: ReplayBuffer) -> None:
        """Say so, if a training ends and nothing was ever replayed."""
        if buffer.counts.steps and not buffer.counts.replay_steps:
            self._warn(f"nothing was replayed in this training: {self._why(buffer)}")

    def _why(self, buffer: ReplayBuffer) -> str:
        counts, needed = buffer.counts, self._sizes.replayed_groups
        if not counts.kept:
            why = f"none of {counts.uninformative:,} groups has rollouts that differ in correctness"
            return f"the buffer is empty, because {why}. Are all prompts too hard or too easy?"
        return (
            f"the buffer has {len(buffer):,} groups and a step replays {needed:,} (kept {counts.kept:,}, all "
            f"alike {counts.uninformative:,}, pushed out {counts.evicted:,}, too old "
            f"{counts.aged + counts.too_old:,})."
        )

    def _log(self, **values: float) -> None:
        for name, value in values.items():
            self._trainer._metrics["train"][f"replay/{name}"].append(float(value))

    def _warn(self, text: str) -> None:
        if self._trainer.accelerator.is_main_process:
            _log.warning("%s", text)

"""What a TRL trainer's log says of replay: takes a buffer and ratios, puts metrics among TRL's, and warns.

Read in TRL 1.16.0. Knows nothing of how rollouts come and go.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gaincurate.replay.buffer import ReplayBuffer
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.metrics import step_metrics, warning
from gaincurate.trainers.replay_loss import importance_ratios

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

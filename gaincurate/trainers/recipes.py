"""Segment mode for each trainer: the command of a round, and what becomes of optimizer, rate and reference.

Takes a trainer's name, yields text. Knows nothing of a run.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any

from gaincurate.errors import InputError
from gaincurate.trainers import recipe_scripts

COMMAND = "gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}"
"""Drives every recipe, with the recipe saved as round.sh."""


@dataclass(frozen=True)
class Recipe:
    """One round of one trainer."""

    trainer: str
    version: str
    """What was read."""
    body: str
    """The script behind its head."""
    optimizer: str
    """What becomes of its state between rounds."""
    rate: str
    """What becomes of the learning rate's schedule."""
    reference: str
    """What the KL term compares with."""
    outcomes: str
    """Who appends them."""
    ran: bool = False
    """Whether the recipe was run, or read only."""

    @property
    def script(self) -> str:
        """The whole of round.sh."""
        told = [
            f"# One round of {self.trainer} {self.version}; "
            f"{'run on a CPU' if self.ran else 'read, not run'}.",
            f"#   {COMMAND}",
            f"#   gaincurate doctor --trainer {self.trainer} --config round.sh --run run",
            f"# Optimizer: {self.optimizer}.",
            f"# Learning rate: {self.rate}.",
            f"# KL reference: {self.reference}.",
            f"# Outcomes: {self.outcomes}.",
        ]
        head = ["#!/bin/bash", *told, "set -eu", "data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5"]
        head += [
            'rm -rf "${output:?}"/*   # of an attempt that was killed: a round begins from its beginning'
        ]
        head += ["run=${data%/rounds/*}   # the run's folder"] if '"$run"' in self.body else []
        return "\n".join(head) + "\n" + self.body

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "command": COMMAND, "script": self.script}


_BEGINS_ANEW = "begins anew every round"
_CONSTANT = "constant; any other schedule would be one process long, warm-up included"
_OFF = "none (the term is off); with it, the model that the round begins with, which moves every round"

_ALL = (
    Recipe(
        "trl",
        "1.16.0",
        recipe_scripts.TRL,
        "goes on, from checkpoint-N of the last round",
        "goes on; constant here, because any other one ends with the round's last step",
        "none (beta 0); with beta, the model that the round begins with, which moves every round",
        "the reward function reward.reward, which is given gc_id and appends to $GAINCURATE_OUTCOMES",
        ran=True,
    ),
    Recipe(
        "verl",
        "0.9.1",
        recipe_scripts.VERL,
        f"{_BEGINS_ANEW}; kept only by resuming, which brings the last file's offset (data.pt) back",
        _CONSTANT,
        _OFF,
        "compute_score in reward.py, which is given extra_info with gc_id and appends to "
        "$GAINCURATE_OUTCOMES",
    ),
    Recipe(
        "openrlhf",
        "0.11.2",
        recipe_scripts.OPENRLHF,
        f"{_BEGINS_ANEW}; kept only by --ckpt.load_enable, which brings the last file's place back",
        "constant; the default warms up and decays within every round",
        _OFF,
        "reward_func in reward.py, which is given the label with gc_id and appends to $GAINCURATE_OUTCOMES",
    ),
    Recipe(
        "nemo-rl",
        "7ea279ab (2026-08-22)",
        recipe_scripts.NEMO_RL,
        f"{_BEGINS_ANEW}; kept only in one checkpoint_dir, where the loader's offset comes back with it",
        "the warm-up over 50 steps begins anew every round; shorten policy.scheduler in a YAML of your own",
        _OFF,
        "an environment of yours (data.default.env_name), or train_data_step*.jsonl by the prompt's text",
    ),
    Recipe(
        "skyrl",
        "a9564572 (2026-08-21)",
        recipe_scripts.SKYRL,
        f"{_BEGINS_ANEW}; kept only by resuming, which brings the last file's offset (data.pt) back",
        _CONSTANT,
        _OFF,
        "your environment, which is given the row's gc_id and appends to $GAINCURATE_OUTCOMES",
    ),
    Recipe(
        "slime",
        "624b824a (2026-08-21)",
        recipe_scripts.SLIME,
        f"{_BEGINS_ANEW}; kept only with --load of Megatron weights, which brings the last file's place back",
        _CONSTANT,
        "--ref-load: the same model in all rounds",
        "the reward function reward.reward, which is given sample.metadata['gc_id'] and appends to "
        "$GAINCURATE_OUTCOMES",
    ),
    Recipe(
        "prime-rl",
        "559b4477 (2026-08-21)",
        recipe_scripts.PRIME_RL,
        f"{_BEGINS_ANEW}; kept only by resuming, which brings the place among the last round's tasks back",
        "constant by default",
        "none of its own: the loss compares with the policy that sampled",
        "the environment's reward, which appends to $GAINCURATE_OUTCOMES",
    ),
    Recipe(
        "areal",
        "4aef98d8 (2026-05-21)",
        recipe_scripts.AREAL,
        f"{_BEGINS_ANEW}; kept only by recover.mode, which brings the last file's place back",
        _CONSTANT,
        "ref.path: the same model in all rounds",
        "your workflow, which is given the row's gc_id and appends to $GAINCURATE_OUTCOMES",
    ),
)
RECIPES: dict[str, Recipe] = {recipe.trainer: recipe for recipe in _ALL}
"""By trainer. Trinity-RFT reads one YAML file and is steered live instead."""


def recipe_of(trainer: str) -> Recipe:
    """A trainer's recipe.

    Raises:
        InputError: there is none.
    """
    if trainer in RECIPES:
        return RECIPES[trainer]
    if trainer == "trinity":
        raise InputError(
            "there is no recipe for trinity: it reads one YAML file and nothing from its command line; write "
            "${oc.env:GAINCURATE_DATA} and so on into that file, and ask `gaincurate doctor --trainer "
            "trinity`."
        )
    close = difflib.get_close_matches(trainer, RECIPES, n=1, cutoff=0.6)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise InputError(f"there is no recipe for {trainer}; there are for {', '.join(RECIPES)}.{meant}")

"""GAIN-RL and DOTS as their papers have them, as strategies of the lean loop, and the adapter of DOTS.

Usage: python docs/studies/lean/papers.py WORLD OUT [--seed N] fits the adapter of `papers.toml`.
The loop's policy is in memory, where a run's would be in a checkpoint. So GAIN-RL's scores are those of
`gaincurate score` on a checkpoint in a temporary folder, and DOTS' references are rolled out in this process.
The rest is the strategies' own code.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from loop import GROUP, PREFILL_WEIGHT, Arm, Group, Training, loss_of, roll_out
from policy import Policy
from pydantic import Field
from safetensors.torch import save_file
from world import World

from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.config import Recipe
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.difficulty.predict import make
from gaincurate.difficulty.predictor import fit_on, load_adapter
from gaincurate.schedule import base
from gaincurate.schedule.strategies import dots, gaussian
from gaincurate.scoring.pipeline import score

SYSTEM = "Answer the question. Give the final answer alone, without any other words."
EXAMPLE = [
    {"role": "user", "content": "State the final answer to the following arithmetic problem: 2 + 5 - 1 ="},
    {"role": "assistant", "content": "6"},
]
_POLICIES = 5  # that an adapter is fitted on: the start, and after each quarter of a training
_TEACHER_SEED = 100  # of the training that they are of; no arm has it
_ANGLES = ("gc_angle", "gc_prompt_tokens", "gc_prefix_tokens")


def write_checkpoint(policy: Policy, start: Path, folder: Path) -> None:
    """The policy as `transformers` reads it, with configuration and tokenizer of the model at the start."""
    shutil.copytree(start, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = {"model.embed_tokens.weight": policy.embedding, "model.norm.weight": policy.norm}
    for number, layer in enumerate(policy.layers):
        name = f"model.layers.{number}."
        q, k, v = layer["qkv"].chunk(3)
        gate, up = layer["up"].chunk(2)
        tensors |= {
            f"{name}self_attn.{part}_proj.weight": w for part, w in zip("qkv", (q, k, v), strict=True)
        }
        tensors |= {
            f"{name}self_attn.o_proj.weight": layer["o"],
            f"{name}mlp.down_proj.weight": layer["down"],
        }
        tensors |= {f"{name}mlp.gate_proj.weight": gate, f"{name}mlp.up_proj.weight": up}
        tensors |= {f"{name}input_layernorm.weight": layer["in"]}
        tensors |= {f"{name}post_attention_layernorm.weight": layer["mid"]}
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})


def angles_of(policy: Policy, start: Path, questions: list[str]) -> tuple[Floats, int]:
    """C of each question after `SYSTEM` and `EXAMPLE`, `[N]`, and the tokens that the pass reads.

    The prefix is the same for all and read once.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(policy, start, folder / "model")
        rows = "".join(json.dumps({"question": question}) + "\n" for question in questions)
        (folder / "questions.jsonl").write_text(rows)
        sources = str(folder / "questions.jsonl"), str(folder / "model")
        options: dict[str, Any] = {"system": SYSTEM, "shots": EXAMPLE, "device": "cpu", "threads": 1}
        score(*sources, folder / "scored", **options)
        scored = ScoredSet(folder / "scored")
        angles, prompt, prefix = (scored.column(name).to_numpy() for name in _ANGLES)
    return angles.astype(np.float64), int(prefix.max() + (prompt - prefix).sum())


class GainRLOptions(gaussian.GaussianOptions):
    """The paper's parameters, and how often the set is scored."""

    every: int = Field(default=1, ge=0)
    """Rounds from one scoring pass to the next. 0: one pass, with the model at the start."""


class GainRL(gaussian.GainRL):
    """GAIN-RL whose angles have a real prefix and are those of the newest policy.

    Args:
        pool: what is drawn from.
        options: see `GainRLOptions`.
    """

    Options: ClassVar[type[base.Options]] = GainRLOptions
    by: ClassVar[str | None] = None  # its order is its own
    reads_scores: ClassVar[bool] = False  # it charges its passes itself

    def prepare(self, context: Any) -> None:
        """Score the set where it is time, and order it again, highest angle first."""
        every = self.options.every
        if context.round % every if every else context.round:
            return
        questions = context.column("question").to_pylist()
        model = context.scored.folder.parent / "model"
        angles, tokens = angles_of(context.exact.policy, model, questions)
        context.bill["scoring"] += round(tokens * PREFILL_WEIGHT)
        self._angles = angles[context.rows]
        self._order = np.argsort(-self._angles, kind="stable")

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct rows in drawn order."""
        self._drawn = self._order[super().draw(round_)]
        return self._drawn

    def observe(self, observed: base.Observed) -> None:
        """Move mu, by the angles of the newest scores."""
        super().observe(replace(observed, concentration=float(self._angles[self._drawn].mean())))


class Dots(dots.Dots):
    """DOTS with references that are rolled out here, whose groups near the target the round trains on.

    Args:
        pool: what is drawn from.
        options: see `dots.DotsOptions`; `adapter` and `reuse_references` are used here.
    """

    def __init__(self, pool: base.Pool, options: Any) -> None:
        super().__init__(pool, options)
        self._adapter = load_adapter(Path(options.adapter))
        self._random = torch.Generator().manual_seed(pool.seed)
        self.reused: list[Group] = []
        """Of this round's references."""

    def prepare(self, context: Any) -> None:
        """Roll the references out with the newest policy, and predict the others from them."""
        chosen, policy, prompts = self.references(context.round), context.exact.policy, context.exact.prompts
        groups, wins, tokens = roll_out(prompts, policy, context.rows[chosen].tolist(), self._random)
        context.bill["references"] += int(tokens.sum())
        failure = 1 - wins / GROUP
        rows = context.scored.take(context.taken[context.rows])
        ids = rows.column(ID).take(chosen).to_pylist()
        rates = PassRates("references", ids, wins, GROUP - wins)
        values = make("adapter", context.scored, rates, adapter=self._adapter).rows(rows)
        values[chosen] = failure
        self.inform(values, chosen)
        self.reused = [self._behaved(policy, groups[place]) for place in self._near(failure)]

    def _near(self, failure: Floats) -> list[int]:
        """Places of the references that are trained on, nearest to the target first, at most half a round."""
        if self.options.reuse_references is None:
            return []
        distance = np.abs(failure - self.options.target_difficulty)
        order = np.argsort(distance, kind="stable")[: self.pool.budget // 2]
        return [int(place) for place in order if distance[place] <= self.options.reuse_references]

    @torch.no_grad()
    def _behaved(self, policy: Policy, group: Group) -> Group:
        """The group with its log-probabilities under the policy that generated it, which is this one."""
        return replace(group, behaviour=loss_of(policy, [group], GROUP)[1])


def fit_adapter(world: World, out: Path, seed: int, arm: Arm) -> None:
    """Fit DOTS' adapter on pass rates of the policies that a uniform training goes through.

    The references that the arms' policies are predicted from are other policies': the seed is no arm's.
    """
    training = Training(world, arm, seed)
    random = torch.Generator().manual_seed(seed)
    ids = world.scored.take(world.rows).column(ID).to_pylist()
    order = np.argsort(ids)
    places, spent = np.arange(len(ids)).tolist(), 0
    observed: list[PassRates] = []
    steps = training.train()
    while True:
        _, wins, tokens = roll_out(world.prompts, training.policy, places, random)
        spent += int(tokens.sum())
        name = f"after {training.tokens} tokens"
        observed.append(PassRates(name, sorted(ids), wins[order], GROUP - wins[order]))
        if len(observed) == _POLICIES:
            break
        target = arm.budget_tokens * len(observed) // (_POLICIES - 1)
        while training.tokens < target and next(steps, steps) is None:
            pass
    report = fit_on([world.folder / "scored"], observed, out, Recipe())
    for each in report["policies"]:
        if each["held_out"] is not None:
            print(f"{each['name']}: Pearson {each['held_out']['pearson']['value']:.2f} on prompts held out")
    print(f"{spent:,} tokens of rollouts, beside {training.tokens:,} of the training")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=_TEACHER_SEED)
    given = parser.parse_args()
    torch.set_num_threads(1)
    fit_adapter(World(given.world), given.out, given.seed, Arm(name="adapter"))
    sys.stdout.flush()

"""Maps which signals know the influence of a prompt: rank correlations with the exact one, in the lean loop.

Usage: python docs/studies/lean/influence.py RESULTS.jsonl [--world NAME=FOLDER ...] [--table].
A prompt's own rollouts are left out of the mean that their gradient is multiplied with: the square of their
noise would pass for influence. A checkpoint's lines come together, and it is not mapped again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from choosing import Exact, mean_gradient, slopes
from head import Completions, Head, read
from loop import GROUP, Arm, Training
from papers import write_checkpoint
from policy import Policy, Tensor, trees
from world import LONGEST, Prompts, World

from gaincurate.core.files import append_line, json_lines, write_lines
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import spearman
from gaincurate.difficulty.verify_worker import said_answer
from gaincurate.scoring.pipeline import score

WORLDS = {"w1": "build/study", "w3": "build/w3"}
ARM = Arm(name="influence-map", step_prompts=4, round_steps=20)  # uniform, tuned; no arm has its numbers
EVERY = 20  # steps between snapshots: a round
DRAWS, SIZES, RANKS = 4, (1, 4, 8, 16), (16, 32, 64)
ROLLOUTS = DRAWS * max(SIZES)  # of a prompt; draws share none
LIVE = 0.02  # chance at least that a group of 8 differs
TOP = 80  # prompts of a round
CHECKED = 10  # prompts whose influence is checked against the mean accuracy
_CHUNK = 16  # prompts that are sampled at a time
Row = dict[str, Any]


class Outcomes(NamedTuple):
    """Rollouts of N prompts: which completion each is, and whether it is right, `[N, ROLLOUTS]` each."""

    completions: list[list[list[int]]]
    which: Ints
    right: Floats

    def weights(self, rollouts: int, draw: int, tasks: Ints) -> Tensor:
        """`[R]`: of each completion's gradient in the policy gradient of these rollouts.

        The baseline is the mean reward of the group, of one rollout that of the task.
        """
        taken = slice(draw * max(SIZES), draw * max(SIZES) + rollouts)
        right = self.right[:, taken]
        means = right.mean(1)
        if rollouts == 1:
            means = (np.bincount(tasks, means) / np.bincount(tasks))[tasks]
        shares = (right - means[:, None]) / rollouts
        count = sum(map(len, self.completions))
        return torch.from_numpy(np.bincount(self.which[:, taken].ravel(), shares.ravel(), count)).float()

    def means(self, values: Tensor, rollouts: int) -> Floats:
        """`[DRAWS, N]`: of the rollouts' values, from those of the completions `[R]`."""
        each = values.double().numpy()[self.which].reshape(len(self.which), DRAWS, -1)
        taken: Floats = each[:, :, :rollouts].mean(2).T
        return taken


def roll(policy: Policy, prompts: Prompts, seed: int) -> Outcomes:
    """Generate the rollouts that all draws are made of."""
    random, which = torch.Generator().manual_seed(seed), []
    completions: list[list[list[int]]] = []
    seen = 0
    for start in range(0, len(prompts), _CHUNK):
        asked = prompts.tokens[start : start + _CHUNK]
        answers = policy.sample(asked, ROLLOUTS, LONGEST, random)
        for each in (answers[k : k + ROLLOUTS] for k in range(0, len(answers), ROLLOUTS)):
            places: dict[tuple[int, ...], int] = {}
            which.append([seen + places.setdefault(tuple(tokens), len(places)) for tokens in each])
            completions.append([list(tokens) for tokens in places])
            seen += len(places)
    flat = [tokens for each in completions for tokens in each]
    texts = prompts.tokenizer.batch_decode(flat, skip_special_tokens=True)
    golds = np.repeat([answer.strip() for answer in prompts.answers], list(map(len, completions)))
    right = np.array([said_answer(t) == gold for t, gold in zip(texts, golds, strict=True)], float)
    return Outcomes(completions, np.array(which), right[np.array(which)])


def gradient(policy: Policy, prompts: Prompts, place: int) -> list[Tensor]:
    """The gradient of one prompt's p, by parameter."""
    batch = trees([prompts.tokens[place]], [prompts.spellings[place]])
    sums = torch.zeros(len(prompts.spellings[place])).index_add(0, batch.branch, policy.log_probs(batch))
    return list(torch.autograd.grad(sums.exp().sum(), policy.parameters()))


def length_of(parts: list[Tensor]) -> float:
    """The norm of a gradient."""
    return float(torch.stack([part.norm() for part in parts]).norm())


def put(policy: Policy, weights: list[Tensor]) -> None:
    """Set a policy's weights."""
    with torch.no_grad():
        for w, value in zip(policy.parameters(), weights, strict=True):
            w.copy_(value)


def sketched(
    policy: Policy, rows: list[Completions], weights: list[Tensor], rank: int | None = None, *, own: bool
) -> list[Floats]:
    """Inner products `[C, N]` of gradients at the head with the mean of the set's, and of those held out.

    Without `own`, each prompt's own share of the set's mean is left out. C columns have seeds 0 to C - 1.
    """
    counts = [int(each.prompt.max()) + 1 for each in rows]
    found: list[list[Tensor]] = [[], []]
    columns = [slice(c, c + 1) for c in range(weights[0].shape[1])] if rank else [slice(None)]
    for seed, column in enumerate(columns):
        heads = [Head(policy.embedding, each, n, rank, seed) for each, n in zip(rows, counts, strict=True)]
        chosen = weights[0][:, column]
        inner = heads[0].along(chosen, heads[0].mean(chosen))
        found[0].append(inner if own else inner - heads[0].squares(chosen) / counts[0])
        found[1].append(heads[0].along(chosen, heads[1].mean(weights[1][:, column])))
    return [torch.cat(each, 1).double().numpy().T for each in found]


def scores_of(policy: Policy, world: World) -> dict[str, Floats]:
    """What `gaincurate score` writes of the prompts with this policy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(policy, world.model, folder / "model")
        questions = world.scored.take(world.rows).column("question").to_pylist()
        write_lines(folder / "questions.jsonl", [{"question": question} for question in questions])
        sources = str(folder / "questions.jsonl"), str(folder / "model"), folder / "scored"
        score(*sources, signals=("angle", "nll", "entropy"), device="cpu", threads=1)
        scored = ScoredSet(folder / "scored")
        return {name: scored.column(f"gc_{name}").to_numpy() for name in ("angle", "nll", "entropy")}


def signals_of(
    world: World, policy: Policy, now: list[Tensor], near: list[Tensor], far: list[Tensor], first: bool
) -> tuple[list[Floats], Floats, dict[str, list[Floats]]]:
    """Exact influences on the set and on held-out prompts, `[N]` each, p, and signals: values for each.

    `near` and `far` are weights a round and half of the training away: earlier, or later for the first.
    """
    prompts, tasks = world.prompts, np.unique(world.prompts.tasks, return_inverse=True)[1]
    sets, all_tasks = (
        [prompts, world.heldout],
        [tasks, np.unique(world.heldout.tasks, return_inverse=True)[1]],
    )
    found: dict[str, list[Floats]] = {}
    exact, away, rates_away = Exact(prompts, policy), {}, {}
    for name, weights in (("a round", near), ("half the training", far), ("now", now)):
        put(policy, weights)
        away[name], rates_away[name] = (
            [exact.influences(), exact.influences(world.heldout)],
            exact.accuracies(),
        )
    rates, targets = rates_away.pop("now"), away.pop("now")
    found["p (1 - p), and U_8: one order"] = [rates * (1 - rates)]
    found["p, or the gold answer's log-probability"] = [rates]
    for name, values in scores_of(policy, world).items():
        found[f"{name}, prompt"] = [values]
    found["gradient norm, exact"] = [
        np.array(
            [length_of(gradient(policy, prompts, k)) if s else 0 for k, s in enumerate(prompts.spellings)]
        )
    ]
    outcomes = [roll(policy, each, 1 + k) for k, each in enumerate(sets)]
    rows = [read(policy, *pair) for pair in zip(sets, (o.completions for o in outcomes), strict=True)]
    for name, values in (
        ("angle", rows[0].angles),
        ("entropy", rows[0].entropies),
        ("NLL", -rows[0].log_probs),
    ):
        found[f"{name}, with 8 rollouts"] = [outcomes[0].means(values, 8)]
    spelled = [read(policy, each, each.spellings) for each in sets]
    exactly = [each.log_probs.exp()[:, None] for each in spelled]
    found["head, exact"] = sketched(policy, spelled, exactly, own=True)
    norms = Head(policy.embedding, spelled[0], len(prompts)).squares(exactly[0]).sqrt().numpy().T
    found["head's gradient norm, exact"] = [norms]
    slope = [
        slopes(policy, mean_gradient(policy, each), lambda: measured(policy, prompts, outcomes[0]))
        for each in sets
    ]
    owners = rows[0].prompt.numpy()
    weights_of = {
        k: [
            torch.stack([o.weights(k, d, t) for d in range(DRAWS)], 1)
            for o, t in zip(outcomes, all_tasks, strict=True)
        ]
        for k in SIZES
    }
    for k, weights in weights_of.items():
        found[f"p (1 - p), {k} rollouts"] = [variances(outcomes[0], k)]
        found[f"all weights, {k} rollouts"] = [
            np.array([np.bincount(owners, w * s, len(prompts)) for w in weights[0].numpy().T]) for s in slope
        ]
        for rank in (None, *RANKS):
            name = f"head, {k} rollouts" + (f", r = {rank}" if rank else "")
            found[name] = sketched(policy, rows, weights, rank, own=False)
    # What a run has kept of an earlier checkpoint, and the first of a later one.
    for name, past in (("a round", near), ("half the training", far)):
        found[f"influence itself {name} away"] = away[name]
        earlier = rates_away[name]
        sign = -1 if first else 1
        found[f"change of p in {name}"] = [sign * (rates - earlier)]
        found[f"change of log p in {name}"] = [sign * (np.log(rates + 1e-12) - np.log(earlier + 1e-12))]
        if first:
            stored, before, after = outcomes[0], now, past
        else:
            put(policy, past)
            stored, before, after = roll(policy, prompts, 3), past, now
        logs = []
        for weights in (before, after):
            put(policy, weights)
            logs.append(read(policy, prompts, stored.completions))
        change, whose = (logs[1].log_probs - logs[0].log_probs).numpy(), logs[0].prompt.numpy()
        parts = [stored.weights(8, d, tasks) for d in range(DRAWS)]
        found[f"advantages x change of log-probability in {name}, 8 rollouts"] = [
            np.array([np.bincount(whose, part.numpy() * change, len(prompts)) for part in parts])
        ]
        if not first:  # rollouts of then, read by the policy of now
            old = sketched(policy, [logs[1]] * 2, [torch.stack(parts, 1)] * 2, own=False)
            found[f"head, 8 rollouts of {name} ago"] = old[:1]
    put(policy, now)
    return targets, rates, found


def measured(policy: Policy, prompts: Prompts, outcomes: Outcomes) -> Floats:
    """`[R]`: log-probabilities of the completions."""
    logs: Floats = read(policy, prompts, outcomes.completions).log_probs.double().numpy()
    return logs


def variances(outcomes: Outcomes, rollouts: int) -> Floats:
    """`[DRAWS, N]`: p (1 - p) of the rollouts of each draw."""
    rates = outcomes.right.reshape(len(outcomes.right), DRAWS, -1)[:, :, :rollouts].mean(2).T
    values: Floats = rates * (1 - rates)
    return values


def inside(values: Floats, exact: Floats, tasks: Ints) -> float:
    """The mean of the tasks' rank correlations by their prompts, of tasks with ten or more."""
    each = [
        (int(here.sum()), spearman(values[here], exact[here])) for here in (tasks == t for t in set(tasks))
    ]
    counted = [(count, value or 0.0) for count, value in each if count >= 10]
    return float(sum(c * v for c, v in counted) / sum(c for c, _ in counted))


def caught(values: Floats, exact: Floats) -> float:
    """What the `TOP` prompts by the signal have more than the mean, as a share of what the best have."""
    tops = [exact[np.argsort(-v, kind="stable")[:TOP]].mean() for v in (values, exact)]
    return float((tops[0] - exact.mean()) / (tops[1] - exact.mean()))


def judged(values: Floats, exact: Floats, tasks: Ints, live: Any) -> dict[str, list[float]]:
    """Mean over draws and their standard deviation, of each figure of the table."""
    draws = values.reshape(-1, len(exact))
    figures = {
        "all": [spearman(v, exact) or 0.0 for v in draws],
        "inside": [inside(v, exact, tasks) for v in draws],
        "live": [spearman(v[live], exact[live]) or 0.0 for v in draws],
        "live inside": [inside(v[live], exact[live], tasks[live]) for v in draws],
        "caught": [caught(v, exact) for v in draws],
    }
    return {name: [round(float(f(v)), 4) for f in (np.mean, np.std)] for name, v in figures.items()}


def mapped(name: str, world: World) -> list[Row]:
    """The lines of a world's three checkpoints."""
    training = Training(world, ARM, 0)
    policy, saved = training.policy, []
    for _ in training.train():
        if len(training.steps) % EVERY == 1:  # the first step has a learning rate of 0
            saved.append([w.detach().clone() for w in policy.parameters()])
    half, last = (len(saved) - 1) // 2, len(saved) - 1
    lines: list[Row] = []
    for when, now, near, far in (
        ("start", 0, 1, half),
        ("middle", half, half - 1, 0),
        ("end", last, last - 1, half),
    ):
        begun, weights = time.perf_counter(), [saved[k] for k in (now, near, far)]
        targets, rates, found = signals_of(world, policy, *weights, first=not now)
        live = 1 - rates**GROUP - (1 - rates) ** GROUP >= LIVE
        tasks = world.prompts.tasks
        place = {
            "world": name,
            "checkpoint": when,
            "step": EVERY * now,
            "prompts": len(live),
            "live": int(live.sum()),
        }
        for signal, values in found.items():
            on = {
                target: judged(np.atleast_2d(values[min(k, len(values) - 1)]), targets[k], tasks, live)
                for k, target in enumerate(("set", "held out"))
            }
            lines.append({**place, "signal": signal, **on})
        lines.append({**place, "check": checked(policy, world, targets[0])})
        sys.stderr.write(f"{name} {when}: {time.perf_counter() - begun:.0f} s\n")
    return lines


def checked(policy: Policy, world: World, influences: Floats) -> list[list[float]]:
    """Of ten prompts, influence and the slope of the mean accuracy along the prompt's gradient: equal."""
    places = np.argsort(-np.abs(influences), kind="stable")[:: -(-len(influences) // CHECKED)]
    pairs = []
    for place in places.tolist():
        part = gradient(policy, world.prompts, place)
        mean = slopes(policy, part, lambda: np.array([world.prompts.accuracies(policy).mean()]))
        pairs.append([float(influences[place]), float(mean[0])])
    return pairs


FIGURES = ("all", "inside", "live", "live inside", "caught")


def table(lines: list[Row]) -> str:
    """Means over a world's checkpoints, of each signal."""
    text = []
    for world in dict.fromkeys(line["world"] for line in lines):
        here = [line for line in lines if line["world"] == world]
        heads = [*FIGURES, "+-", "inside +-", "start", "middle", "end", "held out", "inside"]
        text.append(f"{world:74}" + "".join(f"{head:>12}" for head in heads))
        for signal in dict.fromkeys(line["signal"] for line in here if "signal" in line):
            each = {line["checkpoint"]: line for line in here if line.get("signal") == signal}
            cells = [fmean(line["set"][f][0] for line in each.values()) for f in FIGURES]
            cells += [fmean(line["set"][f][1] for line in each.values()) for f in ("live", "live inside")]
            cells += [
                each[when]["set"]["live"][0] if when in each else float("nan")
                for when in ("start", "middle", "end")
            ]
            cells += [
                fmean(line["held out"][f][0] for line in each.values()) for f in ("live", "live inside")
            ]
            text.append(f"{signal:74}" + "".join(f"{cell:12.2f}" for cell in cells))
        text.append("")
    return "\n".join(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--world", action="append", default=[], help="NAME=FOLDER; w1 and w3 if not given")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for _, row in json_lines(given.results) if row] if given.results.exists() else []
    done = {row["world"] for row in rows}
    for name, folder in [pair.split("=", 1) for pair in given.world] or WORLDS.items():
        if name not in done and not given.table:
            for line in mapped(name, World(Path(folder))):
                append_line(given.results, line)
                rows.append(line)
    print(table(rows))

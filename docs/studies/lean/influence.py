"""Maps which signals know the influence of a prompt: rank correlations with the exact one, in the lean loop.

Usage: python docs/studies/lean/influence.py RESULTS.jsonl [--world NAME ...] [--table].
A prompt's own rollouts are left out of the mean that their gradient is multiplied with: the square of their
noise would pass for influence. A checkpoint's lines come together, and it is not mapped again.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from choosing import Exact, log_probs, mean_gradient, sampled_influences, slopes
from head import Completions, Head, read, roll, sketched
from loop import GROUP, Arm, Training
from papers import write_checkpoint
from policy import Policy, Tensor, trees
from world import Prompts, World

from gaincurate.core.files import append_lines, json_lines, write_lines
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import spearman
from gaincurate.scoring.pipeline import score

WORLDS = {"w1": ("build/study", 1), "w2": ("build/study", 3), "w3": ("build/w3", 1), "w4": ("build/w3", 3)}
ARM = Arm(name="influence-map", step_prompts=4, round_steps=20)  # uniform, tuned; no arm has its numbers
EVERY = 20  # steps between snapshots: a round
DRAWS, SIZES, RANKS = 3, (1, 4, 8, 16), (16, 32, 64)
ROLLOUTS = DRAWS * max(SIZES)  # of a prompt; draws share none
LIVE = 0.02  # chance at least that a group of 8 differs
TOP = 80  # prompts of a round
WHEN = ("start", "middle", "end")
CHECKED = 10  # prompts whose influence is checked against the mean accuracy
Row = dict[str, Any]


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
    world: World, policy: Policy, now: list[Tensor], near: list[Tensor], far: list[Tensor], *, first: bool
) -> tuple[list[Floats], Floats, dict[str, list[Floats]]]:
    """Exact influences `[N]` on the set and on held-out prompts, p, and signals, `[N]` or `[draws, N]` each.

    `near` and `far` are weights a round and half of the training before `now`, or after the first. A signal
    has other values for held-out prompts where it depends on them.
    """
    sets = [world.prompts, world.heldout]
    prompts, tasks = sets[0], [np.unique(each.tasks, return_inverse=True)[1] for each in sets]
    found: dict[str, list[Floats]] = {}
    exact = Exact(prompts, policy)
    past = {}
    for name, weights in (("a round", near), ("half the training", far)):
        put(policy, weights)
        past[name] = exact.accuracies()
        found[f"influence itself, {name} away"] = [exact.influences()]
    put(policy, now)
    rates, targets = exact.accuracies(), [exact.influences(), exact.influences(world.heldout)]
    found["p (1 - p), and U_8: one order"] = [rates * (1 - rates)]
    found["p, or the gold answer's log-probability"] = [rates]
    for name, before in past.items():
        found[f"change of p in {name}"] = [(rates - before) * (-1 if first else 1)]
        found[f"change of log p in {name}"] = [
            np.log((rates + 1e-9) / (before + 1e-9)) * (-1 if first else 1)
        ]
    found |= {f"{name}, prompt": [values] for name, values in scores_of(policy, world).items()}
    live = np.flatnonzero(differing(rates) >= LIVE)
    norms = np.zeros(len(prompts))  # of the others: next to nothing
    norms[live] = [length_of(gradient(policy, prompts, place)) for place in live.tolist()]
    found["gradient norm, exact"] = [norms]

    few = roll(policy, prompts, GROUP, 1)
    rows = read(policy, prompts.tokens, few.completions)
    readings = {"angle": rows.angles, "entropy": rows.entropies, "log-probability": rows.log_probs}
    for name, values in readings.items():
        found[f"{name}, with 8 rollouts"] = [values.numpy()[few.which].mean(1)]

    spelled = [read(policy, each.tokens, each.spellings) for each in sets]
    exactly = [each.log_probs.exp()[:, None, None] for each in spelled]
    found["head, exact"] = [each[0] for each in sketched(policy, spelled, exactly, own=True)]
    golds = Head(policy.embedding, spelled[0])
    found["head's gradient norm, exact"] = [golds.squares(exactly[0][:, 0]).sqrt().numpy().T]
    outcomes = [roll(policy, each, ROLLOUTS, 2, each.accuracies(policy)) for each in sets]
    all_rows = [read(policy, s.tokens, o.completions) for s, o in zip(sets, outcomes, strict=True)]
    weights_of = [o.weights(SIZES, DRAWS, t) for o, t in zip(outcomes, tasks, strict=True)]
    for rank in (None, *RANKS):
        on_set, on_heldout = sketched(policy, all_rows, weights_of, rank, own=False)
        for size, *values in zip(SIZES, on_set, on_heldout, strict=True):
            found[f"head, {size} rollouts" + (f", r = {rank}" if rank else "")] = values
    mean = Head(policy.embedding, all_rows[0]).mean(weights_of[0][:, SIZES.index(GROUP)])
    along = [golds.along(exactly[0][:, 0], each[None])[:, 0].numpy() for each in mean]
    found["head, gold answers along the mean of 8 rollouts"] = [np.array(along)]
    mean_of_all = mean_gradient(policy, prompts)
    slope = slopes(policy, mean_of_all, lambda: log_probs(policy, prompts, outcomes[0].completions))
    for place, size in enumerate(SIZES):
        parts = weights_of[0][:, place]
        found[f"all weights, {size} rollouts"] = [summed(all_rows[0], parts, slope)]
        found[f"all weights, mean of {size} other rollouts, {size} rollouts"] = [
            sampled_influences(policy, prompts, outcomes[0].completions, parts)
        ]
        counts = outcomes[0].right.reshape(len(prompts), DRAWS, -1)[:, :, :size].mean(2).T
        found[f"p (1 - p), {size} rollouts"] = [counts * (1 - counts)]

    # What a run has kept: rollouts of the earlier policy, with its and the newest one's log-probabilities.
    before, after = (now, near) if first else (near, now)
    put(policy, before)
    kept = roll(policy, prompts, DRAWS * GROUP, 3, exact.accuracies())
    parts = kept.weights((GROUP,), DRAWS, tasks[0])
    then = read(policy, prompts.tokens, kept.completions)
    put(policy, after)
    newer = read(policy, prompts.tokens, kept.completions)
    change = (newer.log_probs - then.log_probs).numpy()
    found["advantage x change of log p in a round, 8 rollouts"] = [summed(then, parts[:, 0], change)]
    put(policy, now)
    if not first:
        found["head, 8 rollouts of a round ago"] = [
            sketched(policy, [newer] * 2, [parts] * 2, own=False)[0][0]
        ]
        found["all weights, mean of 8 other rollouts, 8 rollouts of a round ago"] = [
            sampled_influences(policy, prompts, kept.completions, parts[:, 0])
        ]
    return targets, rates, found


def differing(rates: Floats) -> Floats:
    """`[N]`: the chance that a group's rewards differ."""
    chance: Floats = 1 - rates**GROUP - (1 - rates) ** GROUP
    return chance


def summed(rows: Completions, weights: Tensor, values: Floats) -> Floats:
    """`[draws, N]`: sums of completions' values `[R]` with weights `[R, draws]`."""
    owners = rows.prompt.numpy()
    return np.array([np.bincount(owners, each * values, rows.prompts) for each in weights.numpy().T])


def inside(values: Floats, exact: Floats, tasks: Ints) -> float:
    """The mean of the tasks' rank correlations by their prompts, of tasks with ten or more."""
    each = [
        (int(here.sum()), spearman(values[here], exact[here])) for here in (tasks == t for t in set(tasks))
    ]
    counted = [(count, value or 0.0) for count, value in each if count >= 10]
    return float(sum(c * v for c, v in counted) / max(sum(c for c, _ in counted), 1))


def caught(values: Floats, exact: Floats) -> float:
    """What the `TOP` prompts by the signal have more than the mean, as a share of what the best have."""
    tops = [top_mean(v, exact) for v in (values, exact)]
    return float((tops[0] - exact.mean()) / (tops[1] - exact.mean()))


def top_mean(values: Floats, exact: Floats) -> float:
    """The mean of the `TOP` by value. Places that equal values contend for go to each by the same share."""
    last = np.partition(values, -TOP)[-TOP]
    above, tied = values > last, values == last
    return float((exact[above].sum() + (TOP - above.sum()) * exact[tied].mean()) / TOP)


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
    return {
        name: [round(float(np.mean(v)), 4), round(float(np.std(v, ddof=1)), 4) if len(v) > 1 else 0.0]
        for name, v in figures.items()
    }


def mapped(name: str, world: World, done: set[str]) -> Iterator[list[Row]]:
    """The lines of a world's checkpoints, less those that are done."""
    training = Training(world, ARM, 0)
    policy, saved = training.policy, []
    for _ in training.train():
        if len(training.steps) % EVERY == 1:  # the first step has a learning rate of 0
            saved.append([w.detach().clone() for w in policy.parameters()])
    last, tasks = len(saved) - 1, world.prompts.tasks
    half = last // 2
    places = dict(zip(WHEN, ((0, 1, half), (half, half - 1, 0), (last, last - 1, half)), strict=True))
    for when in (when for when in places if when not in done):
        begun, weights = time.perf_counter(), [saved[k] for k in places[when]]
        targets, rates, found = signals_of(world, policy, *weights, first=when == "start")
        live = differing(rates) >= LIVE
        point = {"world": name, "checkpoint": when, "step": EVERY * places[when][0]}
        lines = []
        for signal, values in found.items():
            on = {
                target: judged(np.atleast_2d(values[min(k, len(values) - 1)]), targets[k], tasks, live)
                for k, target in enumerate(("set", "held out"))
            }
            lines.append({**point, "signal": signal, **on})
        facts = {"prompts": len(live), "live": int(live.sum()), "accuracy": round(float(rates.mean()), 4)}
        check = checked(policy, world, targets[0])
        yield [{**point, **facts, "check": check}, *lines]
        sys.stderr.write(f"{name} {when}: {time.perf_counter() - begun:.0f} s\n")


def checked(policy: Policy, world: World, influences: Floats) -> list[list[float]]:
    """Of ten prompts, influence and the slope of the mean accuracy along the prompt's gradient: equal."""
    places = np.argsort(-np.abs(influences), kind="stable")[:: -(-len(influences) // CHECKED)]
    pairs = []
    for place in places.tolist():
        part = gradient(policy, world.prompts, place)
        mean = slopes(policy, part, lambda: np.array([world.prompts.accuracies(policy).mean()]))
        pairs.append([float(influences[place]), float(mean[0])])
    return pairs


def table(lines: list[Row]) -> str:
    """Means over a world's checkpoints, of each signal."""
    text = []
    for world in dict.fromkeys(line["world"] for line in lines):
        here = [line for line in lines if line["world"] == world]
        heads = ["all", "inside", "live", "+-", "inside", "+-", "caught", *WHEN, "held out", "inside"]
        text.append(f"{world:56}" + "".join(f"{head:>9}" for head in heads))
        for signal in dict.fromkeys(line["signal"] for line in here if "signal" in line):
            each = {line["checkpoint"]: line for line in here if line.get("signal") == signal}
            cells = [
                fmean(line["set"][figure][part] for line in each.values())
                for figure, parts in (
                    ("all", 1),
                    ("inside", 1),
                    ("live", 2),
                    ("live inside", 2),
                    ("caught", 1),
                )
                for part in range(parts)
            ]
            cells += [each[when]["set"]["live"][0] if when in each else math.nan for when in WHEN]
            cells += [
                fmean(line["held out"][f][0] for line in each.values()) for f in ("live", "live inside")
            ]
            text.append(f"{signal:56}" + "".join(f"{cell:9.2f}" for cell in cells))
        text.append("")
    return "\n".join(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--world", action="append", choices=WORLDS, default=[])
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for _, row in json_lines(given.results) if row] if given.results.exists() else []
    for name in given.world or WORLDS:
        done = {row["checkpoint"] for row in rows if row["world"] == name}
        folder, every = WORLDS[name]
        left = not given.table and len(done) < len(WHEN)
        for lines in mapped(name, World(Path(folder), every), done) if left else ():
            for line in lines:
                append_lines(given.results, [line])
            rows += lines
    print(table(rows))

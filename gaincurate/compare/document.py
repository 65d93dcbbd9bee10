"""A comparison as one document of plain values, and its results in sentences for newcomers.

The terminal, `--json` and the page show this document and nothing else. The same results give the same
document. Sentences give accuracies as right answers of 100, because a difference of 0.02 says little to most
readers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean

import numpy as np

from gaincurate.compare import verdict
from gaincurate.compare.results import Results
from gaincurate.compare.verdict import OTHERS, THESE, Claim, Resampled
from gaincurate.core.artifact import Json
from gaincurate.core.foreign import json_value
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.stats import spearman, spearman_given
from gaincurate.report.parts import listed

BASELINE, SECOND = "uniform", "length"
FORMAT = 2
# Defaults in an arm's settings, which are not listed.
_UNSET = {"options": {}, "rescore": {}, "spent_before": 0, "stratify": "none"}
Steps = Mapping[str, Floats]
_COSTS = ("scoring", "rescoring", "references", "training", "tokens", "seconds", "step")
PARTS = 10  # of the budget, in `over_time`
_FEWEST = 10  # steps of a correlation
_MUCH = 0.25  # share of a budget that, spent before the training, needs a note
_SAME = "no difference seen"


def document(results: Results) -> Json:
    """All measures.

    Returns:
        `setting`; `headline`, `against_length` and `notes`, sentences; `arms`, a list with the costs, results
        and `sentence` of each arm. Shares and accuracies are from 0 to 1, intervals `[low, high]` or None.
    """
    arms, codes = results.arms, None
    if results.tasks is not None:
        codes = np.unique(results.tasks, return_inverse=True)[1].astype(np.int64)
    resampled = verdict.resample(results.accuracy, codes)
    tasks_vary = codes is not None and verdict.task_count(codes) >= verdict.FEWEST_TASKS
    claim: Claim = OTHERS if tasks_vary else THESE

    def family(pairs: verdict.Pairs) -> dict[str, Json]:
        """Of each arm: its difference for the headline's claim, and for every claim that can be made."""
        rows = {THESE: _by_arm(verdict.differences(arms, resampled, pairs))}
        if codes is not None and claim == OTHERS:
            last = results.accuracy[:, -1]
            rows[OTHERS] = _by_arm(verdict.differences_over_tasks(arms, last, codes, pairs, resampled.apart))
        return {
            arm: {**row, "claim": claim, "claims": {each: rows[each][arm] for each in rows}}
            for arm, row in rows[claim].items()
        }

    controls = results.facts.get("controls", {})
    spent, budget = results.costs["tokens"].mean(axis=2), float(results.comparison["budget_tokens"])
    compared = {
        "difference": family(verdict.pairs_with(arms, BASELINE)),
        "against_length": family(verdict.pairs_with(arms, SECOND, without=[BASELINE])),
        "against_control": family(
            [(arms.index(a), arms.index(b)) for a, b in controls.items() if a in arms and b in arms]
        ),
        "reached": _by_arm(verdict.reached(arms, spent, budget, resampled, BASELINE)),
    }
    edges = verdict.bands(resampled)
    measures = {
        "format": FORMAT,
        "setting": _setting(results, claim, codes),
        "learned": _learned(resampled, arms.index(BASELINE)),
        "apart": [arms[place] for place in resampled.apart],
        "arms": [_arm(results, place, resampled, edges, compared) for place in range(len(arms))],
    }
    whole: Json = json_value(json.dumps(measures, default=np.ndarray.tolist))
    for arm in whole["arms"]:
        arm["sentence"] = about_arm(whole, arm)
    return whole | {
        "headline": headline(whole),
        "against_length": about_length(whole),
        "notes": notes(whole, results.left_out),
    }


def _setting(results: Results, claim: Claim, codes: Ints | None) -> Json:
    """The settings, the sets, the baselines, and the tasks with their effective number."""
    comparison, facts, tasks = results.comparison, results.facts, None
    if results.tasks is not None and codes is not None:
        counts = Counter(sorted(results.tasks))
        tasks = {"columns": facts.get("tasks"), "count": len(counts), "effective": verdict.task_count(codes)}
        tasks["prompts"] = counts
    return {
        "comparison": comparison,
        "model": facts.get("model"),
        "sets": facts.get("sets"),
        "baseline": BASELINE,
        "second": SECOND,
        "seeds": results.seeds,
        "seeds_count": len(results.seeds),
        "prompts": len(results.prompts),
        "samples": int(comparison["evaluation"]["samples"]),
        "tasks": tasks,
        "tuned": facts.get("tuned"),
        "budget_tokens": int(comparison["budget_tokens"]),
        "claim": claim,
    }


def _learned(resampled: Resampled, base: int) -> Json:
    """The gain of training alone: the baseline's final accuracy less that of the start."""
    value = resampled.curves[base, -1] - resampled.curves[base, 0]
    if not len(resampled.draws):
        return {"value": value, "interval": None}
    half = np.quantile(abs(resampled.draws[:, base, -1] - resampled.draws[:, base, 0] - value), verdict.MASS)
    return {"value": value, "interval": [value - half, value + half]}


def _by_arm(rows: Sequence[verdict.Difference | verdict.Reached]) -> dict[str, Json]:
    """The fields of each row but the arm's name, by that."""
    return {row.arm: {name: value for name, value in asdict(row).items() if name != "arm"} for row in rows}


def _arm(
    results: Results, place: int, resampled: Resampled, edges: Floats | None, compared: Mapping[str, Json]
) -> Json:
    name, settings = results.arms[place], results.comparison["arms"][place]
    right, samples = results.right[place, -1], results.samples[place, -1]
    trained = [results.steps[name, seed] for seed in results.seeds]
    chances = pass_at(right, samples, int(results.samples[:, -1].min()))
    curve = _curve(results, place, resampled, edges)
    return {
        "arm": name,
        "settings": {
            key: value
            for key, value in settings.items()
            if key != "name" and value is not None and value != _UNSET.get(key)
        },
        "accuracy": {"value": curve[-1]["accuracy"], "interval": curve[-1]["interval"]},
        "difference": compared["difference"].get(name),
        "against_length": compared["against_length"].get(name),
        "control": results.facts.get("controls", {}).get(name),
        "against_control": compared["against_control"].get(name),
        "reached": compared["reached"][name],
        "accuracy_by_seed": results.accuracy[place, -1].mean(axis=1),
        "pass_at": {str(k): chance.mean() for k, chance in enumerate(chances, 1)},
        "curve": curve,
        "cost": {key: results.costs[key][place, -1].mean() for key in _COSTS},
        "gradient": with_angle(trained),
        "training": over_time(trained, float(results.comparison["budget_tokens"])),
    }


def _curve(results: Results, place: int, resampled: Resampled, edges: Floats | None) -> list[Json]:
    """A row for each mark, the start first; means over seeds."""
    means = {name: results.costs[name][place].mean(axis=1) for name in ("asked", "tokens", "seconds", "step")}
    completions, written = results.samples[place].sum(axis=(1, 2)), results.written[place].sum(axis=(1, 2))
    return [
        {
            "mark": mark,
            **{name: values[mark] for name, values in means.items()},
            "accuracy": accuracy,
            "interval": None if edges is None else edges[:, place, mark],
            "response_tokens": written[mark] / completions[mark],
        }
        for mark, accuracy in enumerate(resampled.curves[place])
    ]


def pass_at(right: Floats, samples: Floats, most: int) -> Iterator[Floats]:
    """The chance that one of k answers is right, estimated without bias from `right` of `samples`.

    1 - C(n - c, k) / C(n, k), which is exact for k drawn without replacement from the n. For each k up to
    `most`.
    """
    missed = np.ones_like(right)
    for k in range(most):
        missed *= np.clip(samples - right - k, 0, None) / (samples - k)
        yield 1 - missed


def over_time(trained: Sequence[Steps], budget: float) -> Json:
    """Means over the generated rollouts, over all and in tenths of the budget.

    Args:
        trained: the steps of each seed, one at least.
        budget: tokens; a step is in the tenth in which it ended.

    Returns:
        `effective` is the share of prompts whose rollouts differed in reward, `reward` their mean,
        `replayed` the share of trained rollouts that were not generated for their step, `response_tokens`
        the mean length of a generated one; None without data. `parts` has a row for each tenth.
    """
    together = {name: np.concatenate([steps[name] for steps in trained]) for name in trained[0]}
    part = np.clip(np.ceil(together["tokens"] / budget * PARTS) - 1, 0, PARTS - 1).astype(np.int64)
    tenths = [{name: values[part == k] for name, values in together.items()} for k in range(PARTS)]
    parts = [{"until": k / PARTS, **_means(tenth)} for k, tenth in enumerate(tenths, 1)]
    generated, replayed = together["rollouts"].sum(), np.nansum(together["replayed"])
    return {
        **_means(together),
        "rollouts": float(generated / len(trained)),
        "replayed": float(replayed / (generated + replayed)) if generated + replayed else None,
        "response_tokens": float(together["completion_tokens"].sum() / generated) if generated else None,
        "parts": parts,
    }


def _means(steps: Steps) -> Json:
    weights = {"effective": "prompts", "reward": "rollouts", "grad_norm": None, "angle": "prompts"}
    means: Json = {}
    for name, of in weights.items():
        values = steps[name]
        weight = np.ones_like(values) if of is None else steps[of]
        usable = np.isfinite(values) & (weight > 0)
        means[name] = float(np.average(values[usable], weights=weight[usable])) if usable.any() else None
    return means


def with_angle(trained: Sequence[Steps]) -> Json:
    """Rank correlation of the gradient's norm with the mean angle of a step's prompts, mean over seeds.

    Above 0: steps on prompts of a higher angle had larger gradients. `given_step` is the partial correlation
    given the step: an arm that goes from high to low angles correlates with gradients that shrink for other
    reasons. None if there are too few steps or no angles.
    """
    both, given_step = list[float | None](), list[float | None]()
    for steps in trained:
        usable = np.isfinite(steps["grad_norm"]) & np.isfinite(steps["angle"])
        norm, angle, step = (steps[name][usable] for name in ("grad_norm", "angle", "step"))
        if len(norm) >= _FEWEST:
            both.append(spearman(norm, angle))
            given_step.append(spearman_given(norm, angle, step))
    defined = [[value for value in values if value is not None] for values in (both, given_step)]
    overall, given = (fmean(values) if values else None for values in defined)
    return {"spearman": overall, "given_step": given, "seeds": len(defined[0])}


def headline(document: Json) -> str:
    """The verdicts on all arms: against the baseline, for these tasks alone, and against their controls."""
    setting, arms = document["setting"], [arm for arm in document["arms"] if arm["difference"]]
    baseline, answers = setting["baseline"], {arm["arm"]: arm["difference"]["answer"] for arm in arms}
    if "cannot say" in answers.values():
        return (
            "One seed allows no verdict: the effect of a strategy cannot be separated from that of the seed. "
            "Use at least three."
        )
    count = f"{len(answers)} other {'strategy' if len(answers) == 1 else 'strategies'}"
    where = _where(setting)
    sentence = f"At equal cost, of {count}, {_summary(answers, baseline, where)}."
    if set(answers.values()) == {_SAME}:
        most = max(float(arm["difference"]["detectable"]) for arm in arms)
        sentence = (
            f"No difference seen: at equal cost none of {count} ended better or worse than "
            f"{baseline}{where}, as far as this comparison can see. {100 * most:.1f} more or fewer "
            "right answers of 100 would have been seen in 8 of 10 such comparisons."
        )
    if where:
        these = {arm["arm"]: arm["difference"]["claims"][THESE]["answer"] for arm in arms}
        alone = f"For more prompts of these {setting['tasks']['count']} tasks alone"
        sentence += f" {alone}: {_summary(these, baseline)}."
    if controlled := [arm for arm in document["arms"] if arm["against_control"]]:
        answers = {arm["arm"]: arm["against_control"]["answer"] for arm in controlled}
        against = _summary(answers, "its control", where)
        sentence += f" Against {baseline} with the same replay and size of a step: {against}."
    return sentence


def _where(setting: Json) -> str:
    """The tasks that a verdict is about, empty for these tasks."""
    return f" on {OTHERS}" if setting["claim"] == OTHERS else ""


def _summary(answers: Mapping[str, str], baseline: str, where: str = "") -> str:
    better, worse = (
        listed([arm for arm, a in answers.items() if a == wanted]) for wanted in ("better", "worse")
    )
    same = sum(answer == _SAME for answer in answers.values())
    parts = [
        f"better than {baseline}{where}: {better}" if better else f"none better than {baseline}{where}",
        f"worse: {worse}" if worse else "none worse",
        *([f"{_SAME}: {same}"] if same else []),
    ]
    return "; ".join(parts)


def about_arm(document: Json, arm: Json) -> str:
    """One arm against the baseline, and against its own control where it has one."""
    setting, row, control = document["setting"], arm["difference"], arm["against_control"]
    baseline, name, learned = setting["baseline"], arm["arm"], document["learned"]["value"]
    if row is None:
        return (
            f"{name}: what the others are measured against. {100 * arm['accuracy']['value']:.1f} of 100 "
            f"held-out answers were right at the end, {100 * learned:+.1f} since the start."
        )
    points = f"{100 * row['value']:+.1f} right answers of 100 against {baseline}"
    if row["joint"] is None:
        return f"{name}: cannot say. {points}, with one seed: it may be the effect of the seed."
    points += f" ({_ends(row)})"
    if row["answer"] == _SAME:
        low, high = (100 * end for end in row["joint"])
        units = f"{setting['prompts']:,} held-out prompts"
        if setting["claim"] == OTHERS:
            units = f"{setting['tasks']['count']:,} tasks"
        text = (
            f"{name}: {_SAME}. {points}: with {setting['seeds_count']} seeds and {units} up to "
            f"{max(high, 0):.1f} more or {max(-low, 0):.1f} fewer remain possible."
        )
    else:
        text = f"{name}: {row['answer']} than {baseline}. {points}."
        is_reached = arm["reached"]["spent"] is not None
        # Not if the model at the start is at the target; the curve of a worse arm can reach it by noise.
        if learned > 0 and not is_reached:
            text += f" It did not reach {baseline}'s final accuracy within the budget."
        elif learned > 0 and row["answer"] != "worse":
            text += f" It was at {baseline}'s final accuracy after {reached_at(document, arm)} of the budget."
    text += _these(row)
    if control is None:
        return text
    than = "against" if control["answer"] == _SAME else "than"
    same = f"At the same replay and size of a step: {control['answer']} {than} {arm['control']}"
    return f"{text} {same} ({_points(control)}).{_these(control)}"


def _these(row: Json) -> str:
    """The answer for these tasks alone, where it is another one."""
    these = row["claims"][THESE]
    if these["answer"] == row["answer"]:
        return ""
    return f" For more prompts of these tasks alone: {these['answer']} ({_ends(these)})."


def reached_at(document: Json, arm: Json) -> str:
    """The share of the budget after which an arm was at the baseline's final accuracy, with its interval."""
    reached = arm["reached"]
    if document["learned"]["value"] <= 0:
        return "\N{EN DASH}"
    if reached["spent"] is None:
        return "not reached"
    share = f"{100 * reached['share']:.0f} %"
    if reached["share_interval"] is None:
        return share
    ends = ("never" if end is None else f"{100 * end:.0f} %" for end in reached["share_interval"])
    return f"{share} ({' to '.join(ends)})"


def about_length(document: Json) -> str | None:
    """The other arms against sorting by length, which needs no model; None where nothing is compared."""
    setting = document["setting"]
    rows = [(arm["arm"], arm["against_length"]) for arm in document["arms"] if arm["against_length"]]
    if not rows or any(row["joint"] is None for _, row in rows):
        return None
    where = _where(setting)
    sentence = (
        f"Against {setting['second']}, which only uses the length of a question, {_with_points(rows)}"
        f"{where} ({setting['baseline']} is left out here: the two are compared above)."
    )
    if where:
        these = _with_points([(arm, row["claims"][THESE]) for arm, row in rows])
        sentence += f" For more prompts of these tasks alone: {these}."
    return sentence


def _with_points(rows: list[tuple[str, Json]]) -> str:
    parts = []
    for answer in ("better", "worse"):
        named = [f"{arm} ({_points(row)})" for arm, row in rows if row["answer"] == answer]
        parts += [f"{answer}: {listed(named)}"] if named else []
    if same := sum(row["answer"] == _SAME for _, row in rows):
        parts.append(f"{_SAME}: {same if parts else 'all'} of {len(rows)}")
    return "; ".join(parts)


def _points(row: Json) -> str:
    return f"{100 * row['value']:+.1f}, {_ends(row)}"


def _ends(row: Json) -> str:
    low, high = row["joint"]
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def notes(document: Json, left_out: int) -> list[str]:
    """The reasons to doubt or limit the verdicts."""
    setting, learned, sentences = document["setting"], document["learned"], []
    baseline, seeds, tasks = setting["baseline"], setting["seeds_count"], setting["tasks"]
    if learned["interval"] is not None and learned["interval"][0] <= 0:
        low, high = learned["interval"]
        sentences.append(
            f"It is not clear that {baseline} learned anything ({100 * learned['value']:+.1f} right answers "
            f"of 100 since the start, {100 * low:+.1f} to {100 * high:+.1f}): if nothing is learned, no "
            "difference between strategies can be seen. A larger budget or learning rate may show more."
        )
    if setting["tuned"] is not None:
        chosen, tried = setting["tuned"]["chosen"], setting["tuned"]["grid"]
        sentences.append(
            f"{baseline} was tuned first: of {len(tried)} settings at equal tokens, learning rate "
            f"{chosen['learning_rate']:g} with {chosen['step_prompts']} prompts a step and "
            f"{chosen['group']} rollouts a prompt gave the most right answers, and all arms use these "
            f"settings. The choice used the held-out prompts with other seeds, so {baseline}'s accuracy may "
            "be slightly overestimated; the gains of other arms are not."
        )
    shares = {arm["arm"]: arm["cost"]["scoring"] / setting["budget_tokens"] for arm in document["arms"]}
    sentences += [
        f"{arm} had spent {100 * share:.0f} % of the budget on scores before its first step, and its verdict "
        "includes this cost. It may change with a larger budget or a measured `prefill_weight`."
        for arm, share in shares.items()
        if share >= _MUCH
    ]
    sentences += [
        f"The seeds of {arm} differ far more than those of the other arms, so its intervals use only its "
        f"own {seeds} seeds and are wide."
        for arm in document["apart"]
    ]
    if seeds == 2:
        sentences.append("With two seeds most differences are not detected; use at least three.")
    if seeds > 1 and setting["claim"] == THESE and tasks is None:
        sentences.append(
            "No column identifies the tasks of the held-out prompts, so prompts are treated as independent. "
            "If they belong to tasks, the verdicts hold for more prompts of these tasks, not for other tasks."
        )
    elif seeds > 1 and setting["claim"] == THESE:
        sentences.append(
            f"The verdicts hold for more prompts of these {tasks['count']} tasks, which count as "
            f"{tasks['effective']:.1f} of equal size. Fewer than {verdict.FEWEST_TASKS} allow no verdict "
            "about other tasks."
        )
    if left_out:
        sentences.append(
            f"{left_out:,} held-out prompts are left out: a model has no judged completion of them."
        )
    return sentences

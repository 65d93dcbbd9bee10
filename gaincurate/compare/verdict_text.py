"""The results of a comparison in sentences for newcomers.

Accuracies are given as right answers of 100, because a difference of 0.02 says little to most readers.
"""

from __future__ import annotations

from collections.abc import Mapping

from gaincurate.compare.verdict import FEWEST_TASKS, OTHERS, THESE
from gaincurate.core.artifact import Json

_MUCH = 0.25  # of a budget: spent before the training, it decides more than the strategy does
_SAME = "no difference seen"


def headline(document: Json) -> str:
    """The verdicts over all arms, what they are where only prompts may change, and against own controls."""
    setting, arms = document["setting"], [arm for arm in document["arms"] if arm["difference"]]
    baseline, answers = setting["baseline"], {arm["arm"]: arm["difference"]["answer"] for arm in arms}
    if "cannot say" in answers.values():
        return (
            "With one seed nothing can be said: what a strategy does cannot be told from what a seed does. "
            "Give at least three."
        )
    count = f"{len(answers)} other {'strategy' if len(answers) == 1 else 'strategies'}"
    where = _where(setting)
    if set(answers.values()) == {_SAME}:
        most = max(float(arm["difference"]["detectable"]) for arm in arms)
        first = (
            f"No difference seen: at equal cost none of {count} ended better or worse than "
            f"{baseline}{where}, as far as this comparison can see. {100 * most:.1f} more or fewer "
            "right answers of 100 would have been seen in 8 of 10 such comparisons."
        )
    else:
        first = f"At equal cost, of {count}, {_summary(answers, baseline, where)}."
    sentences = [first]
    if where:
        these = {arm["arm"]: arm["difference"]["claims"][THESE]["answer"] for arm in arms}
        alone = f"For more prompts of these {setting['tasks']['count']} tasks alone"
        sentences.append(f"{alone}: {_summary(these, baseline)}.")
    if own := {a["arm"]: a["against_control"]["answer"] for a in document["arms"] if a["against_control"]}:
        against = _summary(own, "its control", where)
        sentences.append(f"Against {baseline} with the same replay and size of a step: {against}.")
    return " ".join(sentences)


def _where(setting: Json) -> str:
    """The tasks that a verdict is about, where it is not these alone."""
    return f" on {OTHERS}" if setting["claim"] == OTHERS else ""


def _summary(answers: Mapping[str, str], baseline: str, where: str = "") -> str:
    better, worse = (
        _listed([arm for arm, a in answers.items() if a == wanted]) for wanted in ("better", "worse")
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
    baseline, name = setting["baseline"], arm["arm"]
    if row is None:
        return (
            f"{name}: what the others are measured against. {100 * arm['accuracy']['value']:.1f} of 100 "
            "held-out answers were right at the end, "
            f"{100 * document['learned']['value']:+.1f} since the start."
        )
    points = f"{100 * row['value']:+.1f} right answers of 100 against {baseline}"
    if row["joint"] is None:
        return f"{name}: cannot say. {points}, with one seed: it may be the seed's doing."
    points += f" ({_ends(row)})"
    if row["answer"] == _SAME:
        low, high = (100 * end for end in row["joint"])
        units = f"{setting['prompts']:,} held-out prompts"
        if setting["claim"] == OTHERS:
            units = f"{setting['tasks']['count']:,} tasks"
        text = (
            f"{name}: {_SAME}. {points}: with {setting['seeds_count']} seeds and {units} up to "
            f"{max(high, 0):.1f} more or {max(-low, 0):.1f} fewer could hide here."
        )
    else:
        text = f"{name}: {row['answer']} than {baseline}. {points}.{_reach(document, arm)}"
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


def _reach(document: Json, arm: Json) -> str:
    """When an arm that differs was at the baseline's end."""
    baseline, there = document["setting"]["baseline"], arm["reached"]["spent"] is not None
    if document["learned"]["value"] <= 0:
        return ""  # a target that the model at the start meets says nothing
    if there and arm["difference"]["answer"] == "worse":
        return ""  # its curve was touched by noise
    if not there:
        return f" It did not reach {baseline}'s final accuracy within the budget."
    return f" It was at {baseline}'s final accuracy after {reached_at(document, arm)} of the budget."


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
    first = (
        f"Against {setting['second']}, which knows nothing but how long a question is, {_with_points(rows)}"
        f"{where} ({setting['baseline']} is left out here: the two are compared above)."
    )
    if not where:
        return first
    these = _with_points([(arm, row["claims"][THESE]) for arm, row in rows])
    return f"{first} For more prompts of these tasks alone: {these}."


def _with_points(rows: list[tuple[str, Json]]) -> str:
    parts = []
    for answer in ("better", "worse"):
        named = [f"{arm} ({_points(row)})" for arm, row in rows if row["answer"] == answer]
        parts += [f"{answer}: {_listed(named)}"] if named else []
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
    baseline, seeds = setting["baseline"], setting["seeds_count"]
    if learned["interval"] is not None and learned["interval"][0] <= 0:
        low, high = learned["interval"]
        sentences.append(
            f"It is not clear that {baseline} learned anything ({100 * learned['value']:+.1f} right answers "
            f"of 100 since the start, {100 * low:+.1f} to {100 * high:+.1f}): where nothing is learned, no "
            "strategy can be told from another. A larger budget or learning rate may show more."
        )
    if setting["tuned"] is not None:
        chosen, tried = setting["tuned"]["chosen"], setting["tuned"]["grid"]
        sentences.append(
            f"{baseline} was tuned first: of {len(tried)} settings at equal tokens, learning rate "
            f"{chosen['learning_rate']:g} with {chosen['step_prompts']} prompts a step and "
            f"{chosen['group']} rollouts a prompt gave the most right answers, and all arms have it. It was "
            f"chosen on the held-out prompts, with other seeds, so {baseline}'s accuracy may be "
            "flattered a little and no arm's gain is."
        )
    for arm in document["arms"]:
        share = arm["cost"]["scoring"] / setting["budget_tokens"]
        if share >= _MUCH:
            sentences.append(
                f"{arm['arm']} had spent {100 * share:.0f} % of the budget on scores before its first step: "
                "its verdict is about that price too. A larger budget, or a `prefill_weight` that was "
                "measured, may show another."
            )
    sentences += [
        f"The seeds of {arm} differ far more than those of the other arms, so its intervals are made of "
        f"its own {seeds} seeds alone and are wide."
        for arm in document["apart"]
    ]
    if seeds == 2:
        sentences.append("With two seeds most differences stay unseen; give at least three.")
    if seeds > 1 and setting["claim"] == THESE:
        sentences.append(_about_tasks(setting["tasks"]))
    if left_out:
        sentences.append(
            f"{left_out:,} held-out prompts are left out: of one model at least no completion could be "
            "judged."
        )
    return sentences


def _about_tasks(tasks: Json | None) -> str:
    """Why the verdicts are about these tasks."""
    if tasks is None:
        return (
            "Nothing says of which task a held-out prompt is, so prompts are taken as independent. Where "
            "they come in tasks, the verdicts are about more prompts of these tasks and not about others."
        )
    return (
        f"The verdicts are about more prompts of these {tasks['count']} tasks, which say as much as "
        f"{tasks['effective']:.1f} of equal size. With fewer than {FEWEST_TASKS} nothing is said of "
        "other tasks."
    )


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))

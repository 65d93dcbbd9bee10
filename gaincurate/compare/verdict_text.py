"""The results of a comparison in sentences for newcomers.

Accuracies are given as right answers of 100, because a difference of 0.02 says little to most readers.
"""

from __future__ import annotations

from gaincurate.compare.verdict import FEWEST_TASKS, OTHERS, THESE
from gaincurate.core.artifact import Json

_MUCH = 0.25  # of a budget: spent before the training, it decides more than the strategy does


def headline(document: Json) -> str:
    """The verdicts over all arms, what they are where only prompts may change, and against own controls."""
    setting = document["setting"]
    baseline, answers = setting["baseline"], _answers(document)
    if "cannot say" in answers.values():
        return (
            "With one seed nothing can be said: what a strategy does cannot be told from what a seed does. "
            "Give at least three."
        )
    count = f"{len(answers)} other {_plural(len(answers), 'strategy', 'strategies')}"
    where = f" on {OTHERS}" if setting["claim"] == OTHERS else ""
    if set(answers.values()) == {"no difference seen"}:
        first = (
            f"No difference seen: at equal cost none of {count} ended better or worse than "
            f"{baseline}{where}, as far as this comparison can see. {_most(document):.1f} more or fewer "
            "right answers of 100 would have been seen in 8 of 10 such comparisons."
        )
    else:
        first = f"At equal cost, of {count}, {_summary(answers, baseline, where)}."
    sentences = [first]
    if where:
        these = _summary(_answers(document, THESE), baseline)
        sentences.append(f"For more prompts of these {setting['tasks']['count']} tasks alone: {these}.")
    if own := {a["arm"]: a["against_control"]["answer"] for a in document["arms"] if a["against_control"]}:
        against = _summary(own, "its control", where)
        sentences.append(f"Against {baseline} with the same replay and size of a step: {against}.")
    return " ".join(sentences)


def _summary(answers: dict[str, str], baseline: str, where: str = "") -> str:
    better, worse = (
        _listed([a for a, answer in answers.items() if answer == s]) for s in ("better", "worse")
    )
    parts = (
        [f"better than {baseline}{where}: {better}"] if better else [f"none better than {baseline}{where}"]
    )
    parts += [f"worse: {worse}"] if worse else ["none worse"]
    left = sum(answer == "no difference seen" for answer in answers.values())
    parts += [f"no difference seen: {left}"] if left else []
    return "; ".join(parts)


def _answers(document: Json, claim: str | None = None) -> dict[str, str]:
    rows = {arm["arm"]: arm["difference"] for arm in document["arms"] if arm["difference"]}
    if claim is not None:
        rows = {arm: row["claims"][claim] for arm, row in rows.items()}
    return {arm: row["answer"] for arm, row in rows.items()}


def _most(document: Json) -> float:
    return 100 * max(float(arm["difference"]["detectable"]) for arm in document["arms"] if arm["difference"])


def about_arm(document: Json, arm: Json) -> str:
    """One arm against the baseline, and against its own control where it has one."""
    return _against_baseline(document, arm) + _against_control(arm)


def _against_control(arm: Json) -> str:
    row = arm["against_control"]
    if row is None or row["joint"] is None:
        return ""
    low, high = (100 * end for end in row["joint"])
    than = f" than {arm['control']}" if row["answer"] in ("better", "worse") else f" against {arm['control']}"
    return (
        f" At the same replay and size of a step: {row['answer']}{than} ({100 * row['value']:+.1f}, "
        f"{low:+.1f} to {high:+.1f}).{_these(row)}"
    )


def _against_baseline(document: Json, arm: Json) -> str:
    setting, difference = document["setting"], arm["difference"]
    baseline, name = setting["baseline"], arm["arm"]
    right = f"{100 * arm['accuracy']['value']:.1f} of 100 held-out answers were right at the end"
    if difference is None:
        return f"{name}: what the others are measured against. {right}{_learned(document)}."
    points = f"{100 * difference['value']:+.1f} right answers of 100 against {baseline}"
    if difference["joint"] is None:
        return f"{name}: cannot say. {points}, with one seed: it may be the seed's doing."
    low, high = (100 * end for end in difference["joint"])
    span = f"({low:+.1f} to {high:+.1f})"
    these = _these(difference)
    if difference["answer"] == "no difference seen":
        units = f"{setting['prompts']:,} held-out prompts"
        if setting["claim"] == OTHERS:
            units = f"{setting['tasks']['count']:,} tasks"
        return (
            f"{name}: no difference seen. {points} {span}: with {setting['seeds_count']} seeds and "
            f"{units} up to {max(high, 0):.1f} more or {max(-low, 0):.1f} fewer could hide here.{these}"
        )
    late = difference["answer"] == "worse" and arm["reached"]["spent"] is not None  # touched by noise
    reach = "" if late else _reach(document, arm)
    return f"{name}: {difference['answer']} than {baseline}. {points} {span}. {reach}".rstrip() + these


def _these(difference: Json) -> str:
    """The answer for these tasks alone, where it is another one."""
    these = difference["claims"][THESE]
    if these["answer"] == difference["answer"]:
        return ""
    low, high = (100 * end for end in these["joint"])
    return f" For more prompts of these tasks alone: {these['answer']} ({low:+.1f} to {high:+.1f})."


def _learned(document: Json) -> str:
    """Of the baseline: what it learned."""
    return f", {100 * document['learned']['value']:+.1f} since the start"


def _reach(document: Json, arm: Json) -> str:
    reached, baseline = arm["reached"], document["setting"]["baseline"]
    if document["learned"]["value"] <= 0:
        return ""  # a target that the model at the start meets says nothing
    if reached["spent"] is None:
        return f"It did not reach {baseline}'s final accuracy within the budget."
    return f"It was at {baseline}'s final accuracy after {reached_at(document, arm)} of the budget."


def reached_at(document: Json, arm: Json) -> str:
    """The share of the budget after which an arm was at the baseline's final accuracy, with its interval."""
    reached = arm["reached"]
    if document["learned"]["value"] <= 0:
        return "\N{EN DASH}"
    if reached["spent"] is None:
        return "not reached"
    ends = reached["share_interval"]
    shown = f"{100 * reached['share']:.0f} %"
    return shown if ends is None else f"{shown} ({' to '.join(_share(end) for end in ends)})"


def _share(end: float | None) -> str:
    return "never" if end is None else f"{100 * end:.0f} %"


def about_length(document: Json) -> str | None:
    """The other arms against sorting by length, which needs no model; None where nothing is compared."""
    second, baseline = document["setting"]["second"], document["setting"]["baseline"]
    rows = [(arm["arm"], arm["against_length"]) for arm in document["arms"] if arm["against_length"]]
    if not rows or any(row["joint"] is None for _, row in rows):
        return None
    where = f" on {OTHERS}" if document["setting"]["claim"] == OTHERS else ""
    first = (
        f"Against {second}, which knows nothing but how long a question is, {_with_points(rows)}{where} "
        f"({baseline} is left out here: the two are compared above)."
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
    same = sum(row["answer"] == "no difference seen" for _, row in rows)
    if same:
        parts.append(f"no difference seen: {same if parts else 'all'} of {len(rows)}")
    return "; ".join(parts)


def _points(row: Json) -> str:
    low, high = row["joint"]
    return f"{100 * row['value']:+.1f}, {100 * low:+.1f} to {100 * high:+.1f}"


def notes(document: Json, left_out: int) -> list[str]:
    """The reasons to doubt or limit the verdicts."""
    setting, learned, sentences = document["setting"], document["learned"], []
    baseline = setting["baseline"]
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
    for arm in document["apart"]:
        sentences.append(
            f"The seeds of {arm} differ far more than those of the other arms, so its intervals are made of "
            f"its own {setting['seeds_count']} seeds alone and are wide."
        )
    if 1 < setting["seeds_count"] < 3:
        sentences.append("With two seeds most differences stay unseen; give at least three.")
    if setting["seeds_count"] > 1 and setting["claim"] == THESE:
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


def _plural(count: int, singular: str, plural: str) -> str:
    return singular if count == 1 else plural

"""Write docs/head-to-head.md, its pictures and its figures from the stored results of the study.

Usage: python docs/studies/head_to_head/page.py [COMPARED].
COMPARED is the study's finished comparison, whose results are stored next to this file first. Neither this
file nor template.txt contains a result: all come from `figures.json`, made by `gaincurate.compare.document`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drawn import pictures
from kept import keep, kept

from gaincurate.compare.document import BASELINE, document, reached_at
from gaincurate.compare.results import Results
from gaincurate.compare.verdict import THESE
from gaincurate.core.files import write_atomic

HERE = Path(__file__).parent
NAME, FIGURES, TEMPLATE = "head-to-head.md", "figures.json", "template.txt"
Json = dict[str, Any]
_WORDS = {"gc_angle": "the angle", "gc_nll": "the NLL", "gc_question_tokens": "the length"}


def figures(folder: Path) -> Json:
    """Every figure of the page, by name."""
    results, about = kept(folder)
    return {**document(results), "about": about | {"by_task": by_task(results, about["heldout_tasks"])}}


def by_task(results: Results, tasks: list[str]) -> Json:
    """Where the differences at the end come from, in right answers of 100 over all held-out prompts.

    Each task's part is its sum over prompts, so the parts of all tasks add up to the whole.
    """
    if not tasks:
        return {}
    tasks = [tasks[int(place)] for place in results.prompts]
    names = sorted(set(tasks))
    member = np.array([[task == name for task in tasks] for name in names])
    base = results.arms.index(BASELINE)
    accuracy = 100 * results.accuracy.mean(axis=2)  # [arms, marks, prompts]
    learned = accuracy[base, -1] - accuracy[base, 0]
    found: Json = {
        "prompts": dict(zip(names, member.sum(axis=1).tolist(), strict=True)),
        "learned": dict(zip(names, (member @ learned / len(tasks)).tolist(), strict=True)),
        "arms": {},
    }
    for place, arm in enumerate(results.arms):
        if place == base:
            continue
        parts = member @ (accuracy[place, -1] - accuracy[base, -1]) / len(tasks)
        found["arms"][arm] = {
            "tasks": dict(zip(names, parts.tolist(), strict=True)),
            "value": float(parts.sum()),
        }
    return found


def page(found: Json) -> str:
    """The page's text."""
    setting = found["setting"]
    notes = "".join(f"Note: {note}\n\n" for note in found["notes"])
    baseline = setting["baseline"]
    return (
        (HERE / TEMPLATE)
        .read_text()
        .format(
            count=len(found["arms"]),
            headline=found["headline"],
            notes=notes,
            length=found["against_length"] or "",
            setup=_setup(found),
            rates=_rates(found["about"]),
            order=_order(found["about"]),
            final=_final(found),
            by_task_words=_by_task_words(found),
            baseline=baseline,
            **_references(found),
            training=_training(found),
        )
    )


def _setup(found: Json) -> str:
    setting, about = found["setting"], found["about"]
    model, sets = about["model"], about["prompts"]
    made = ""
    if model:
        made = (
            f" The model has {model['parameters']:,} parameters and was trained from scratch for "
            f"{model['steps']:,} supervised steps on {model['examples']:,} examples of the same tasks "
            "([`model.py`](studies/head_to_head/model.py), [`prompts.py`](studies/head_to_head/prompts.py); "
            f"sha256 of its weights `{model['sha256'][:16]}...`)."
        )
    arms, marks = len(found["arms"]), len(found["arms"][0]["curve"])
    return (
        f"{arms} arms, {setting['seeds_count']} seeds, {setting['budget_tokens']:,} generated tokens each, "
        f"GRPO by TRL.{made} The arms choose from {sets['scored']:,} prompts ({about['prompt_tokens']:,} "
        f"tokens per scoring pass). They are judged on {setting['prompts']:,} others with "
        f"{setting['samples']} answers each, at {marks} marks including the start."
    )


def _references(found: Json) -> Json:
    """The cost of references, by the arms that have them; blanks if none has."""
    arms = [arm for arm in found["arms"] if arm["cost"]["references"]]
    shares = [100 * arm["cost"]["references"] / arm["cost"]["tokens"] for arm in arms]
    options = arms[0]["settings"].get("options", {}) if arms else {}
    return {
        "references": options.get("references", "(no)"),
        "reference_rollouts": options.get("rollout", {}).get("samples", "(no)"),
        "reference_share": f"{min(shares):.0f} to {max(shares):.0f} %" if shares else "nothing",
        "step_prompts": found["setting"]["comparison"]["step_prompts"],
    }


def _rates(about: Json) -> str:
    """How many prompts the model solves at the start."""
    rows = about["model"].get("pass_rates")
    if not rows:
        return ""
    by_rate = list(rows["all"]["by rate"].values())
    return (
        f"At the start {rows['all']['mean']:.0%} of its answers are right: {by_rate[0]:,} prompts are never "
        f"solved, and {by_rate[-1]:,} always. "
    )


def _order(about: Json) -> str:
    """The share of tasks in each order."""
    if not about["between_tasks"]:
        return ""
    shares = [f"{100 * about['between_tasks'][name]:.0f} % of {word}" for name, word in _WORDS.items()]
    ends = [f"{arm} {mu:.0f}" for arm, mu in about["mu"].items()]
    return (
        "**Orders are mostly orders of tasks.** Differences between tasks and levels explain "
        f"{', '.join(shares)} (share of the variance). In another mixture the same score may put other "
        f"tasks first. The mean of the sampled ranks, of {about['prompts']['scored']:,}, ended at "
        f"{', '.join(ends)} (mean over seeds), so these arms see mostly the first part of their order."
    )


def _final(found: Json) -> str:
    base, second = found["setting"]["baseline"], found["setting"]["second"]
    most = max(found["arms"][0]["pass_at"], key=int)
    head = [
        "arm",
        "right at the end",
        f"less {base}",
        THESE,
        "would be seen",
        f"less {second}",
    ]
    head += [f"{base}'s end reached after", f"pass@{most}"]
    lines = []
    for arm in sorted(found["arms"], key=lambda arm: -float(arm["accuracy"]["value"])):
        against, length = arm["difference"], arm["against_length"]
        lines.append(
            [
                arm["arm"],
                _share(arm["accuracy"]),
                _points(against),
                against["claims"][THESE]["answer"] if against else "",
                f"{100 * against['detectable']:.1f}" if against and against["detectable"] is not None else "",
                _points(length),
                reached_at(found, arm),
                f"{100 * arm['pass_at'][most]:.1f} %",
            ]
        )
    return _table(head, lines)


HABITS = ("chain_sum 1", "count_bits 1", "letter_counting 2", "simple_equations 1", "spell_backward 2")
"""The rows of prompts.py whose examples showed one."""


def _by_task_words(found: Json) -> str:
    """The rows that make the differences at the end."""
    cut, base = found["about"]["by_task"], found["setting"]["baseline"]
    if not cut:
        return ""
    arms = cut["arms"]
    compared = {arm["arm"]: arm["difference"]["claims"][THESE] for arm in found["arms"] if arm["difference"]}
    worse = [arm for arm, difference in compared.items() if difference["answer"] == "worse"]
    lost = {task: sum(arms[arm]["tasks"][task] for arm in worse) for task in cut["prompts"]}
    two = sorted(lost, key=lambda task: lost[task])[:2]
    left = sum(count for task, count in cut["prompts"].items() if task not in two) / sum(
        cut["prompts"].values()
    )
    without = {
        name: sum(part for task, part in arm["tasks"].items() if task not in two) / left
        for name, arm in arms.items()
    }
    gained = sum(part for task, part in cut["learned"].items() if task in HABITS)
    rest = ", ".join(f"{name} {_part(value)}" for name, value in without.items())
    learned = _part(sum(cut["learned"].values()))
    return (
        f"Of {base}'s {learned} since the start, the five tasks with a planted habit give {_part(gained)}. "
        f"Two tasks, `{two[0]}` and `{two[1]}`, account for most of the loss of the arms that are worse on "
        f"these tasks. Over the other tasks the differences are: {rest}."
    )


def _part(value: float) -> str:
    """Signed, one digit, and 0 without a sign."""
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}"


def _share(estimate: Json) -> str:
    said = f"{100 * estimate['value']:.1f} %"
    if estimate["interval"] is None:
        return said
    low, high = (100 * end for end in estimate["interval"])
    return f"{said} ({low:.1f} to {high:.1f})"


def _points(difference: Json | None) -> str:
    if difference is None:
        return ""
    said = f"{100 * difference['value']:+.1f}"
    if difference["joint"] is None:
        return said
    low, high = (100 * end for end in difference["joint"])
    return f"{said} ({low:+.1f} to {high:+.1f})"


def _training(found: Json) -> str:
    names = ("training", "references", "scoring", "tokens", "step", "seconds")
    head = ["arm", *names[:3], "all tokens", "steps", "seconds", "effective", "with the angle", "given time"]
    lines = []
    for arm in found["arms"]:
        gradient = arm["gradient"]
        effective = _number(arm["training"]["effective"], ".2f")
        angle = (_number(gradient[name], "+.2f") for name in ("spearman", "given_step"))
        lines.append([arm["arm"], *(f"{arm['cost'][n]:,.0f}" for n in names), effective, *angle])
    return _table(head, lines)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def write(folder: Path, path: Path) -> None:
    """Write the figures, the pictures and the page of what is kept in a folder."""
    found = figures(folder)
    made = {FIGURES: json.dumps(found, indent=1) + "\n", **pictures(found)}
    for name, text in made.items():
        write_atomic(folder / name, text.encode())
    write_atomic(path, page(found).encode())
    print(f"{path}: written")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]), HERE)
    write(HERE, HERE.parent.parent / NAME)

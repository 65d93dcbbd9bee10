"""Writes docs/head-to-head.md: takes what is kept of the study, yields the page, pictures and figures.

Usage: python docs/head_to_head/page.py [COMPARED]. COMPARED is a finished comparison, the study's: what is
kept of it is written beside this file first. Without it, the page is written again from what is kept. No
figure of a result stands here or in template.md: all come from `figures.json`, which
`gaincurate.compare.document` makes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drawn import pictures
from kept import keep, kept

from gaincurate.compare.document import document
from gaincurate.compare.verdict_text import reached_at
from gaincurate.files import write_atomic

HERE = Path(__file__).parent
NAME, FIGURES, TEMPLATE = "head-to-head.md", "figures.json", "template.md"
Json = dict[str, Any]
_WORDS = {"gc_angle": "the angle", "gc_nll": "the NLL", "gc_question_tokens": "the length"}
_SCORES = {"gc_angle": 2, "gc_nll": 1, "gc_question_tokens": 1}  # and their digits


def figures(folder: Path) -> Json:
    """Every figure of the page, by name."""
    results, about = kept(folder)
    return {**document(results), "about": about}


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
            sentences="\n".join(f"- {arm['sentence']}" for arm in found["arms"]),
            length=found["against_length"] or "",
            setup=_setup(found),
            settings="\n".join(
                f"| {name} | `{_plain(value)}` |" for name, value in _settings(setting).items()
            ),
            arms="\n".join(f"| {arm['arm']} | {_own(arm)} |" for arm in found["arms"]),
            rates=_rates(found["about"]),
            order=_order(found["about"]),
            final=_final(found),
            baseline=baseline,
            meanwhile=_meanwhile(found),
            cost=_cost(found),
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
            "([`model.py`](head_to_head/model.py), [`prompts.py`](head_to_head/prompts.py); sha256 of its "
            f"weights `{model['sha256'][:16]}...`)."
        )
    arms, marks = len(found["arms"]), len(found["arms"][0]["curve"])
    return (
        f"{arms} arms, {setting['seeds_count']} seeds, {setting['budget_tokens']:,} generated tokens each, "
        f"GRPO by TRL.{made} The arms choose from {sets['scored']:,} prompts ({about['prompt_tokens']:,} "
        f"tokens: what a scoring pass reads) and are judged on {setting['prompts']:,} others, "
        f"{setting['samples']} answers each, at {marks} marks, the start included."
    )


def _settings(setting: Json) -> Json:
    comparison = setting["comparison"]
    nested = {f"{part}.{k}": v for part in ("train", "evaluation") for k, v in comparison[part].items()}
    skipped = {"arms", "train", "evaluation"}
    plain = {name: value for name, value in comparison.items() if name not in skipped}
    return {name: value for name, value in {**plain, **nested}.items() if value is not None}


def _own(arm: Json) -> str:
    return ", ".join(f"{name} `{_plain(value)}`" for name, value in arm["settings"].items())


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _rates(about: Json) -> str:
    rows, scores = about["model"].get("pass_rates"), about["scores"]
    if not rows:
        return "(not measured)"
    edges = list(next(iter(rows.values()))["by rate"])
    head = ["task", "prompts", "right", *edges, *(("angle", "NLL", "tokens") if scores else ())]
    lines = []
    for name, row in rows.items():
        told = scores.get(name)
        means = [f"{told[key]:.{digits}f}" if told else "" for key, digits in _SCORES.items()]
        means = means if scores else []
        lines.append([name, row["prompts"], f"{row['mean']:.2f}", *row["by rate"].values(), *means])
    return _table(head, lines)


def _order(about: Json) -> str:
    """What the orders are made of."""
    if not about["between_tasks"]:
        return ""
    shares = [f"{100 * about['between_tasks'][name]:.0f} % of {word}" for name, word in _WORDS.items()]
    ends = [f"{arm} {mu:.0f}" for arm, mu in about["mu"].items()]
    return (
        f"**What an order means here.** {', '.join(shares)} is a difference between these rows "
        "(share of the variance), so an order by one of them is mostly an order of tasks, and which tasks "
        "are learnt quickly decides what it gains. In another mixture the same score may put other tasks "
        f"first. The mean of the ranks that are drawn from ended, of {about['prompts']['scored']:,}, at "
        f"{', '.join(ends)} (mean over seeds): these arms see the first part of their order, and tails."
    )


def _final(found: Json) -> str:
    base, second = found["setting"]["baseline"], found["setting"]["second"]
    most = max(found["arms"][0]["pass_at"], key=int)
    head = [
        "arm",
        "right at the end",
        f"less {base}",
        "verdict",
        "would be seen",
        f"less {second}",
        "verdict",
    ]
    head += [f"{base}'s end reached after", f"pass@{most}", "tokens of an answer"]
    lines = []
    for arm in sorted(found["arms"], key=lambda arm: -float(arm["accuracy"]["value"])):
        against, length = arm["difference"], arm["against_length"]
        lines.append(
            [
                arm["arm"],
                _share(arm["accuracy"]),
                _points(against),
                against["answer"] if against else "the baseline",
                f"{100 * against['detectable']:.1f}" if against and against["detectable"] is not None else "",
                _points(length),
                length["answer"] if length else "",
                reached_at(found, arm),
                f"{100 * arm['pass_at'][most]:.1f} %",
                f"{arm['curve'][-1]['response_tokens']:.1f}",
            ]
        )
    return _table(head, lines)


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


def _meanwhile(found: Json) -> str:
    head = ["arm", "effective", "reward", "tokens of a rollout", "rollouts", "replayed", "gradient's norm"]
    head += ["with the angle", "given time"]
    lines = []
    for arm in found["arms"]:
        told, gradient = arm["training"], arm["gradient"]
        lines.append(
            [
                arm["arm"],
                _number(told["effective"], ".2f"),
                _number(told["reward"], ".3f"),
                _number(told["response_tokens"], ".1f"),
                _number(told["rollouts"], ",.0f"),
                _number(told["replayed"], ".0%"),
                _number(told["grad_norm"], ".3g"),
                _number(gradient["spearman"], "+.2f"),
                _number(gradient["given_step"], "+.2f"),
            ]
        )
    return _table(head, lines)


def _cost(found: Json) -> str:
    head = ["arm", "training", "references", "scoring", "re-scoring", "all tokens", "steps", "seconds"]
    names = ("training", "references", "scoring", "rescoring", "tokens", "step", "seconds")
    return _table(head, [[a["arm"], *(f"{a['cost'][n]:,.0f}" for n in names)] for a in found["arms"]])


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
    write(HERE, HERE.parent / NAME)

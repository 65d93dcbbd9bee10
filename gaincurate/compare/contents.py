"""The document of a comparison as parts of paragraphs, tables and pictures.

Every arm has its own panel with the baseline in grey, because nine curves in one panel are hard to
distinguish.
"""

from __future__ import annotations

from collections.abc import Mapping

from gaincurate.compare.document import reached_at
from gaincurate.compare.verdict import THESE
from gaincurate.core.artifact import Json
from gaincurate.core.stats import Estimate
from gaincurate.report.parts import Block, Heading, Part, Picture, Table, count, plain, records, signed
from gaincurate.report.plots import Curve, Points, intervals, lines

_OVER = {
    "tokens": (
        "Against generated tokens",
        "Every token that an arm generated or, weighted, scored counts. The band is the 95 % interval of "
        "the arm alone; much of it comes from prompts, which are the same for all arms, so arms whose bands "
        "overlap can still differ significantly.",
    ),
    "seconds": (
        "Against wall time",
        "Seconds of training on this machine, with repeated scoring and reference rollouts; without loading, "
        "judging and the first scoring pass.",
    ),
}


def parts(comparison: Json) -> list[Part]:
    """All parts of `document.document`."""
    tuned = comparison["setting"]["tuned"]
    over = [_over(comparison, name) for name in _OVER]
    more = [] if tuned is None else [_tuning(tuned)]
    return [_final(comparison), *over, _training(comparison), _cost(comparison), *more, _made(comparison)]


def to_html(comparison: Json) -> str:
    """The comparison as one HTML file; its texts are escaped, and the same document gives the same page."""
    from gaincurate.report.html import page  # needs an extra

    tones = {"better": "yes", "worse": "no"}
    return page(
        "compare.html.j2",
        "gaincurate.compare",
        document=comparison,
        setting=comparison["setting"],
        arms=comparison["arms"],
        tone=lambda arm: tones.get((arm["difference"] or {}).get("answer", ""), "unknown"),
        parts=parts(comparison),
    )


def _final(comparison: Json) -> Part:
    arms, picture = comparison["arms"], final(comparison)
    has_learned = comparison["learned"]["value"] > 0  # else the model at the start is at the final accuracy
    ends = [
        {
            "arm": arm["arm"],
            "accuracy": _estimate(arm["accuracy"]["value"], arm["accuracy"]["interval"]),
            **{f"pass@{k}": value for k, value in arm["pass_at"].items() if k != "1"},
            "answer_tokens": arm["curve"][-1]["response_tokens"],
            "would_be_seen": (arm["difference"] or {}).get("detectable"),
            "tokens_ratio": arm["reached"]["ratio"] if has_learned else None,
        }
        for arm in arms
    ]
    names = ["arm", *(f"seed_{seed}" for seed in comparison["setting"]["seeds"])]
    seeds = [dict(zip(names, [arm["arm"], *arm["accuracy_by_seed"]], strict=True)) for arm in arms]
    caption = (
        "At the end. The tokens ratio is the arm's tokens to the baseline's final accuracy, divided by the "
        "baseline's"
    )
    blocks: list[Block] = [
        "The difference in right answers when the budget was spent. The intervals are 95 % intervals for "
        f"{comparison['setting']['claim']} that hold for all arms of a family together.",
        *([picture] if picture else []),
        _verdicts(comparison),
        records(caption, ends),
        records("Final accuracy of every seed", seeds, detail=True),
    ]
    return Part("final", "At the end", blocks)


def _verdicts(comparison: Json) -> Table:
    baseline, second = comparison["setting"]["baseline"], comparison["setting"]["second"]
    several = comparison["setting"]["claim"] != THESE
    controlled = any(arm["control"] for arm in comparison["arms"])
    head = ["arm", "right", f"less {baseline}", "95 % together", "verdict", *([THESE] if several else [])]
    head += [f"less {second}", "verdict", *(["its control", "less it", "verdict"] if controlled else [])]
    rows = []
    for arm in sorted(comparison["arms"], key=lambda arm: -float(arm["accuracy"]["value"])):
        row = arm["difference"]
        joint = (row or {}).get("joint") or [None]  # of the baseline, and with one seed
        ends = " to ".join(signed(end, 3) for end in joint)
        value, answer = _against(row)
        cells = [arm["arm"], f"{arm['accuracy']['value']:.3f}", value, ends, answer or "the baseline"]
        cells += [row["claims"][THESE]["answer"] if row else ""] if several else []
        cells += _against(arm["against_length"])
        cells += [arm["control"] or "", *_against(arm["against_control"])] if controlled else []
        rows.append([*cells, reached_at(comparison, arm)])
    return Table("Verdicts", [*head, f"at {baseline}'s end after"], rows)


def _against(difference: Json | None) -> tuple[str, str]:
    """A difference and its verdict."""
    return (signed(difference["value"], 3), difference["answer"]) if difference else (signed(None), "")


def final(comparison: Json) -> Picture | None:
    """Final differences with the intervals that hold for all arms together, in right answers of 100."""
    setting, arms = comparison["setting"], comparison["arms"]
    against = {
        "difference": setting["baseline"],
        "against_length": setting["second"],
        "against_control": "its own control",
    }
    rows = {
        name: [(a["arm"], _estimate(a[key]["value"], a[key]["joint"], 100)) for a in arms if a[key]]
        for key, name in against.items()
    }
    panels = [(f"against {name}", estimates) for name, estimates in rows.items() if estimates]
    if not panels:
        return None
    listed = ", ".join(f"{name} {signed(e.value, 1)}" for name, e in panels[0][1])
    spec = intervals(panels, title="right answers of 100, difference")
    return Picture(spec, f"Right answers of 100 {panels[0][0]}: {listed}.", wide=True)


def _estimate(value: float, ends: list[float] | None, times: float = 1.0) -> Estimate:
    low, high = (None, None) if ends is None else (times * end for end in ends)
    return Estimate(times * value, low, high, 0)


def _over(comparison: Json, name: str) -> Part:
    title, text = _OVER[name]
    baseline = comparison["setting"]["baseline"]
    rows = [
        {"arm": arm["arm"]}
        | {
            f"mark {mark['mark']}" if mark["mark"] else "start": (
                f"{100 * mark['accuracy']:.1f} % at {count(round(mark[name]))}"
            )
            for mark in arm["curve"]
        }
        for arm in comparison["arms"]
    ]
    blocks: list[Block] = [
        f"Held-out accuracy at each mark, mean over seeds; {baseline} is the dashed line in grey. {text}",
        curves(comparison, name),
        records(f"Held-out accuracy at each mark, and {name} spent", rows, detail=True),
    ]
    return Part(name, title, blocks, detail=True)


def curves(comparison: Json, over: str) -> Picture:
    """Held-out accuracy over `tokens` or `seconds`, with the intervals of each arm alone."""
    by_arm = {
        arm["arm"]: [(m[over], m["accuracy"], *(m["interval"] or (None, None))) for m in arm["curve"]]
        for arm in comparison["arms"]
    }
    title = "generated tokens" if over == "tokens" else "seconds"
    ends = ", ".join(f"{name} ends at {100 * points[-1][1]:.1f} %" for name, points in by_arm.items())
    titles = (title, "held-out accuracy")
    return _multiples(comparison, by_arm, titles, f"Held-out accuracy over {title}: {ends}.")


def over_training(comparison: Json, name: str, title: str) -> Picture | None:
    """A share that each tenth of the budget has, such as that of effective prompts."""
    budget = comparison["setting"]["budget_tokens"]
    by_arm = {
        arm["arm"]: [
            (part["until"] * budget, part[name], None, None)
            for part in arm["training"]["parts"]
            if part[name] is not None
        ]
        for arm in comparison["arms"]
    }
    if not any(by_arm.values()):
        return None
    ends = ", ".join(f"{arm} from {p[0][1]:.2f} to {p[-1][1]:.2f}" for arm, p in by_arm.items() if p)
    return _multiples(comparison, by_arm, ("generated tokens", title), f"{title} over training: {ends}.")


def _multiples(
    comparison: Json, by_arm: Mapping[str, Points], titles: tuple[str, str], sentence: str
) -> Picture:
    baseline = comparison["setting"]["baseline"]
    made = [Curve(arm, points, () if arm == baseline else by_arm[baseline]) for arm, points in by_arm.items()]
    most = max(point[0] for points in by_arm.values() for point in points)
    return Picture(lines(made, titles, x=(0, most)), sentence, wide=True)


def _training(comparison: Json) -> Part:
    rows = [
        {
            "arm": arm["arm"],
            **{name: value for name, value in arm["training"].items() if name != "parts"},
            "with_angle": arm["gradient"]["spearman"],
            "given_time": arm["gradient"]["given_step"],
        }
        for arm in comparison["arms"]
    ]
    pictures = [
        over_training(comparison, name, title)
        for name, title in (("effective", "effective prompts"), ("reward", "mean reward"))
    ]
    caption = "All seeds; with angle: rank correlation of the gradient's norm with the mean angle of a step"
    blocks: list[Block] = [
        "A group of rollouts teaches GRPO something only where its rewards differ: the share of such "
        "prompts is what a strategy wants to raise. A higher share without a higher final accuracy is worth "
        "nothing. The mean reward rises if a strategy picks easier prompts, and if the model improves.",
        *filter(None, pictures),
        records(caption, rows),
    ]
    return Part("training", "While training", blocks)


def _cost(comparison: Json) -> Part:
    arms = comparison["arms"]
    rows = [{"arm": arm["arm"], "steps": round(arm["cost"]["step"]), **arm["cost"]} for arm in arms]
    columns = "arm training references scoring rescoring tokens steps seconds"
    blocks: list[Block] = [
        "The budget of an arm includes all of its costs. An arm may exceed it slightly, because a started "
        "step is finished.",
        records("Tokens until the last mark, mean over seeds", rows, columns),
    ]
    return Part("cost", "What it cost", blocks)


def _tuning(tuned: Json) -> Part:
    """The grid that was tried before any arm."""
    rows = [
        {
            "uniform, learning rate": f"{row['learning_rate']:g}",
            "prompts a step": str(row["step_prompts"]),
            "rollouts a prompt": str(row["group"]),
            "right": f"{row['accuracy']:.3f}",
            "steps": row["steps"],
            "choice": "chosen" if tuned["chosen"].items() <= row.items() else "",
        }
        for row in tuned["grid"]
    ]
    text = f"Uniform sampling with each setting before any arm, at equal tokens, seeds {tuned['seeds']}."
    return Part("tuning", "Tuning", [text, records("Held-out accuracy of uniform sampling", rows)])


def _made(comparison: Json) -> Part:
    """The settings in which the arms differ, and those that they share, by name."""
    setting, groups = comparison["setting"], ("train", "evaluation")
    asked = {**setting["comparison"], "model": setting["model"]}
    facts = {name: value for name, value in asked.items() if name not in (*groups, "arms", "tune")}
    facts |= {f"{group}.{name}": value for group in groups for name, value in asked[group].items()}
    facts |= {f"manifest of {name}": value for name, value in (setting["sets"] or {}).items()}
    facts = {name: value for name, value in facts.items() if value is not None}
    settings = {arm["arm"]: arm["settings"].items() for arm in comparison["arms"]}
    rows = [
        {"arm": arm, "settings": ", ".join(f"{name} {plain(value)}" for name, value in values)}
        for arm, values in settings.items()
    ]
    table = records("Settings in which the arms differ", rows, left=["settings"])
    return Part("made", "How this was made", [table, Heading("What all arms share"), facts], detail=True)

"""The quality of predictions as tables and pictures, for runs and for `difficulty predict`."""

from __future__ import annotations

from collections.abc import Sequence

from gaincurate.core.artifact import Json
from gaincurate.core.stats import Bin, Estimate
from gaincurate.difficulty.metrics import no_better_than_a_constant
from gaincurate.report.parts import Block, Heading, Picture, records
from gaincurate.report.plots import Curve, lines

_RANGE = (
    "Drawn prompts were all predicted near the target, so a correlation over them says little of the "
    "predictor; references are a random sample."
)
_FIGURES = ("pearson", "ceiling", "spearman", "brier")
_BY_ROUND = (
    "round references rollouts rollout_seconds predict_seconds pearson ceiling brier brier_drawn "
    "p(1-p)_references p(1-p)_drawn"
)


def predictions(facts: Json | None, rounds: Sequence[Json]) -> list[Block]:
    """The references of a run, their cost beside the trainer's, and calibration.

    Args:
        facts: `difficulty` of `schedule.status.status`; None where nothing is predicted.
        rounds: its `rounds`.
    """
    if facts is None or not facts["rounds"]:
        return []
    what, end, aim = "p (1 - p)", 0.25, "the largest p (1 - p)"
    if facts["target"] == "difficulty":
        what, end, aim = "failure rate", 1.0, f"a failure rate of {facts['target_difficulty']:g}"
    cost = facts["cost"]
    rollouts, tokens = (sum(row[name] or 0 for row in rounds) for name in ("rollouts", "completion_tokens"))
    rows = []
    for row in facts["rounds"]:
        of, drawn = row["on_halves"] or row["on_references"], row["on_drawn"] or {}
        same = {name: row[name] for name in ("round", "rollouts", "rollout_seconds", "predict_seconds")}
        same |= {name: of[name]["value"] for name in ("pearson", "ceiling", "brier")}
        same |= {"brier_drawn": drawn.get("brier"), "p(1-p)_drawn": drawn.get("carried")}
        same["p(1-p)_references"] = row["carried"]
        rows.append(same | {"references": f"{row['observed']:,} of {row['references']:,}"})
    newest, drawn = facts["rounds"][-1], facts["newest"]
    how = "each predicted from the others" if newest["on_halves"] is None else "one half from the other"
    title = f"round {newest['round']}: {what} of references, {how}"
    judged = [(title, newest["on_halves"] or newest["on_references"])]
    judged += [(f"round {drawn['round']}: {what} of drawn prompts", drawn)] if drawn else []
    return [
        Heading("What its predictions were worth"),
        f"The run aims at {aim}, predicted by {facts['predictor']}. Its references: {cost['rollouts']:,} "
        f"rollouts (the trainer's: {rollouts:,}), {cost['completion_tokens']:,} completion tokens (the "
        f"trainer's: {tokens:,}), {cost['rollout_seconds']:,.1f} s of rollouts, "
        f"{cost['predict_seconds']:,.1f} s of prediction. {_RANGE if drawn else ''}".rstrip(),
        records("Quality on references, and Brier score and p (1 - p) of drawn prompts", rows, _BY_ROUND),
        *quality(judged, what, end),
    ]


def quality(judged: Sequence[tuple[str, Json]], what: str, end: float = 1.0) -> list[Block]:
    """Tables of `difficulty.metrics.Quality` as JSON has it, with a warning where a constant is as good.

    Args:
        judged: of what, and its quality.
        what: that is predicted.
        end: of its range from 0.
    """
    rows, reliabilities, warnings = [], list[Block](), list[Block]()
    for of, figures in judged:
        rows.append({"of": of, "prompts": figures["count"], "brier_of_mean": figures["brier_of_mean"]})
        for name in _FIGURES:
            low, high = figures[name]["interval"] or (None, None)
            rows[-1][name] = Estimate(figures[name]["value"], low, high, figures["count"])
        if bins := [Bin(**entry) for entry in figures["reliability"]]:
            last = max(end, *(b.observed for b in bins))
            points = [(b.predicted, b.observed, None, None) for b in bins]
            curve = Curve(of, points, [(0, 0, None, None), (last, last, None, None)])
            sentence = f"{of}: predicted {what} against the observed one in {len(bins)} bins."
            spec = lines([curve], (f"predicted {what}", f"observed {what}"), x=(0, last))
            table = records(f"{of}, by what was predicted", bins, "low high count predicted observed")
            reliabilities += [Picture(spec, sentence), table]
        if len(rows) == 1 and (warning := no_better_than_a_constant(figures)) is not None:
            warnings.append(f"warning: {warning}")
    caption = "Quality; Pearson's correlation is to be read against the noise ceiling"
    table = records(caption, rows, "of prompts pearson ceiling spearman brier brier_of_mean")
    return [table, *warnings, *reliabilities]

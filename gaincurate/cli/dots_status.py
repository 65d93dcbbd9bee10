"""What a person sees of predictions in a run's status; takes plain values, knows nothing of how they came."""

from __future__ import annotations

from typing import Any

from gaincurate.cli import output

_RANGE = (
    "  drawn prompts were all predicted near the target, so a correlation over them says little of the "
    "predictor; references are a random sample"
)


def print_difficulty(found: dict[str, Any], trainer: list[dict[str, Any]]) -> None:
    """References, their cost beside the trainer's, and calibration.

    Args:
        found: `difficulty` of `story.status`.
        trainer: its `rounds`.
    """
    waiting = found["waiting"]
    if found["rounds"]:
        _cost(found, trainer)
        _by_round(found["rounds"])
        newest = found["rounds"][-1]
        what = "failure rate" if found["target"] == "difficulty" else "p (1 - p)"
        _quality(
            newest["on_references"],
            f"round {newest['round']}: {what} of references, each predicted from the others",
        )
        if found["newest"] is not None:
            _quality(found["newest"], f"round {found['newest']['round']}: {what} of drawn prompts")
            output.text(_RANGE)
    if waiting is None:
        return
    if waiting["rolls_out"]:
        output.text(f"  round {waiting['round']}: its references are rolled out by `schedule run` or `next`")
    else:
        output.text(
            f"  round {waiting['round']} waits for outcomes of its references: prompts in "
            f"{waiting['prompts']}, outcomes to {waiting['outcomes']}"
        )


def _cost(found: dict[str, Any], trainer: list[dict[str, Any]]) -> None:
    cost = found["cost"]
    rollouts = sum(row["rollouts"] or 0 for row in trainer)
    tokens = sum(row["completion_tokens"] or 0 for row in trainer)
    aim = "the largest p (1 - p)"
    if found["target"] == "difficulty":
        aim = f"a failure rate of {found['target_difficulty']:g}"
    output.text(f"  aims at {aim}, predicted by {found['predictor']}")
    output.text(
        f"  references: {output.counted(cost['rollouts'], 'rollout')} (the trainer's: {rollouts:,}), "
        f"{output.counted(cost['completion_tokens'], 'completion token')} (the trainer's: {tokens:,}), "
        f"{cost['rollout_seconds']:,.1f} s of rollouts, {cost['predict_seconds']:,.1f} s of prediction"
    )


def _by_round(rounds: list[dict[str, Any]]) -> None:
    rows = []
    for row in rounds:
        quality, drawn = row["on_references"], row["on_drawn"] or {}
        rows.append(
            [
                str(row["round"]),
                f"{row['observed']:,} of {row['references']:,}",
                output.number(row["rollouts"], ",d"),
                output.number(row["rollout_seconds"], ",.1f"),
                output.number(row["predict_seconds"], ",.1f"),
                output.number(quality["pearson"]["value"], ".3f"),
                output.number(quality["ceiling"]["value"], ".3f"),
                output.number(quality["brier"]["value"], ".4f"),
                output.number(drawn.get("brier"), ".4f"),
                output.number(row["carried"], ".4f"),
                output.number(drawn.get("carried"), ".4f"),
            ]
        )
    output.table(
        rows,
        [
            "round", "references", "rollouts", "rollout s", "predict s", "Pearson", "ceiling", "Brier",
            "Brier, drawn", "p(1-p), references", "p(1-p), drawn",
        ],
    )  # fmt: skip


def _figure(figure: dict[str, Any]) -> str:
    text = output.number(figure["value"], ".3f")
    around = figure["interval"]
    return text if around is None else f"{text} ({around[0]:.3f} to {around[1]:.3f})"


def _quality(found: dict[str, Any], what: str) -> None:
    output.text(f"  {what} ({output.counted(found['count'], 'prompt')}):")
    names = {"pearson": "Pearson", "spearman": "Spearman", "brier": "Brier", "ceiling": "noise ceiling"}
    output.text("    " + "  ".join(f"{name} {_figure(found[key])}" for key, name in names.items()))
    output.table(
        [
            [
                f"{b['low']:.4g} to {b['high']:.4g}",
                f"{b['count']:,}",
                f"{b['predicted']:.3f}",
                f"{b['observed']:.3f}",
            ]
            for b in found["reliability"]
        ],
        ["predicted", "prompts", "mean predicted", "mean observed"],
    )

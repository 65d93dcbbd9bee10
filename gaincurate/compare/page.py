"""A comparison as one HTML file: takes the document, yields the page's text.

As the page of `gaincurate report`: it asks for nothing, has no script, and forbids both. The same document
gives the same page.
"""

from __future__ import annotations

from typing import Any

import gaincurate
from gaincurate.compare import charts
from gaincurate.compare.sentences import reached_at
from gaincurate.core.artifact import Json
from gaincurate.report import words
from gaincurate.report.page import environment

_TONES = {"better": "yes", "worse": "no"}


def to_html(found: Json) -> str:
    """The whole page.

    Args:
        found: as `measures.document` makes it; its texts are escaped.
    """
    return (
        environment("gaincurate.compare")
        .get_template("compare.html.j2")
        .render(
            found=found,
            setting=found["setting"],
            arms=found["arms"],
            pictures=_pictures(found),
            facts=_facts(found["setting"]),
            reached_at=reached_at,
            tone=lambda arm: _TONES.get((arm["difference"] or {}).get("answer", ""), "unknown"),
            points=points,
            span=span,
            version=gaincurate.__version__,
        )
    )


def points(value: float | None) -> str:
    """A difference of shares as right answers of 100."""
    return words.signed(None if value is None else 100 * value, 1)


def span(ends: list[float] | None) -> str:
    """The ends of an interval of `points`; empty where there is none."""
    return "" if ends is None else f"{points(ends[0])} to {points(ends[1])}"


def _pictures(found: Json) -> dict[str, Any]:
    return {
        "tokens": charts.curves(found, "tokens"),
        "seconds": charts.curves(found, "seconds"),
        "final": charts.final(found),
        "effective": charts.over_training(found, "effective", "effective prompts"),
        "reward": charts.over_training(found, "reward", "mean reward"),
        "costs": charts.costs(found),
        "times": charts.times(found),
    }


def _facts(setting: Json) -> dict[str, Any]:
    """What all arms share, by the names of the settings."""
    own = ("arms", "evaluation", "train")
    comparison = setting["comparison"]
    plain = {name: value for name, value in comparison.items() if name not in own and value is not None}
    judged = {name: value for name, value in comparison["evaluation"].items() if value is not None}
    return {
        **plain,
        "model": setting["model"],
        **{f"train.{name}": value for name, value in comparison["train"].items()},
        **{f"evaluation.{name}": value for name, value in judged.items()},
        **{f"manifest of {name}": value for name, value in (setting["sets"] or {}).items()},
    }

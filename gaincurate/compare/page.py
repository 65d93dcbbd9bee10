"""A comparison as one HTML file, with its pictures. The same document gives the same page."""

from __future__ import annotations

from gaincurate.compare.contents import parts
from gaincurate.core.artifact import Json
from gaincurate.report.html import environment

_TONES = {"better": "yes", "worse": "no"}


def to_html(document: Json) -> str:
    """The whole page.

    Args:
        document: as `document.document` makes it; its texts are escaped.
    """
    return (
        environment("gaincurate.compare")
        .get_template("compare.html.j2")
        .render(
            document=document,
            setting=document["setting"],
            arms=document["arms"],
            tone=lambda arm: _TONES.get((arm["difference"] or {}).get("answer", ""), "unknown"),
            parts=parts(document),
        )
    )

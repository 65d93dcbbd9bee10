"""The report as one HTML file. The same document gives the same page."""

from __future__ import annotations

from gaincurate.report.contents import parts
from gaincurate.report.document import Document
from gaincurate.report.html import environment
from gaincurate.report.verdict_text import alike, answer, mostly_groups, next_steps, together


def to_html(document: Document, explore: str | None = None) -> str:
    """The whole page.

    Args:
        document: its texts come from data; each is escaped, and characters without a shape are written out.
        explore: the page of every prompt beside this one, to link to.
    """
    return (
        environment("gaincurate.report")
        .get_template("page.html.j2")
        .render(
            document=document,
            explore=explore,
            verdicts=alike(document),
            mostly_groups=mostly_groups(document),
            steps=next_steps(document),
            answer=answer,
            together=together,
            parts=parts(document),
        )
    )

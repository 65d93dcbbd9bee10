"""The report as one HTML file: the document, its pictures and the advice, filled into the templates.

The same document gives the same page.
"""

from __future__ import annotations

from functools import cache

import jinja2

from gaincurate.report.advice import answer, next_steps
from gaincurate.report.document import QUANTILES, Document
from gaincurate.report.figures import by_group, by_target, controls, pictures
from gaincurate.report.html import environment


def to_html(document: Document) -> str:
    """The whole page.

    Args:
        document: its texts come from data; each is escaped, and characters without a shape are written out.
    """
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            document=document,
            # What is worth a trial comes first; the rest stays in the set's order.
            verdicts=sorted(document.verdicts, key=lambda verdict: verdict.sort_first is None),
            pictures=pictures(document),
            steps=next_steps(document),
            relations=by_target(document.relations),
            lifts=by_target(document.lifts),
        )
    )


@cache
def _templates() -> jinja2.Environment:
    templates = environment("gaincurate.report", controls=controls, groups=by_group)
    templates.globals.update(answer=answer, levels=QUANTILES)
    return templates

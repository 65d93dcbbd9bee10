"""The report as one HTML file: takes the document, yields the page's text.

The page asks for nothing: styles and pictures are in it, there is no script, and its own policy forbids both
scripts and requests, so that a prompt which slipped through as markup could still do nothing. The same
document gives the same page.
"""

from __future__ import annotations

from functools import cache

import jinja2
from markupsafe import Markup, escape

import gaincurate
from gaincurate.report import words
from gaincurate.report.advice import answer, next_steps
from gaincurate.report.document import Document
from gaincurate.report.figures import QUANTILES
from gaincurate.report.pictures import by_group, by_target, controls, pictures


def to_html(document: Document) -> str:
    """The whole page.

    Args:
        document: its texts come from data; each is escaped, and characters without a shape are written out.
    """
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            document=document,
            # What is worth a trial comes first; the rest stays in the set's order.
            verdicts=sorted(document.verdicts, key=lambda verdict: verdict.sort_first is None),
            pictures=pictures(document),
            steps=next_steps(document),
            relations=by_target(document.relations),
            lifts=by_target(document.lifts),
            version=gaincurate.__version__,
        )
    )


def prose(text: str) -> Markup:
    """A sentence of ours, which may hold texts of data: true minus signs, what is in backticks as code."""
    parts = words.shown(text).split("`")
    if len(parts) % 2 == 0:  # a lone backtick is a backtick
        return escape("`".join(parts))
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(p) if i % 2 else escape(words.typeset(p)) for i, p in enumerate(parts))


@cache
def environment(*packages: str) -> jinja2.Environment:
    """What fills in templates, those of other packages first."""
    loaders = [jinja2.PackageLoader(name) for name in (*packages, "gaincurate.report")]
    found = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # What stands in the page as it is goes through this, so that no template can forget it.
        finalize=lambda value: words.shown(value) if type(value) is str else value,
    )
    found.filters.update(
        count=words.count,
        number=words.number,
        signed=words.signed,
        share=words.share,
        interval=words.interval,
        seconds=words.seconds,
        controls=controls,
        groups=by_group,
        row=words.row,
        plain=words.plain,
        prose=prose,
    )
    found.globals.update(answer=answer, levels=QUANTILES)
    return found

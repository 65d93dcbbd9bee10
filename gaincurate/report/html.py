"""What every page is built with: the templates, the filters of their numbers, and sentences as markup.

A page asks for nothing: styles and pictures are in it, and its own policy forbids requests and scripts. Only
the page of every prompt has a script, which its policy names by its hash. So a prompt that slipped through
as markup could still do nothing.
"""

from __future__ import annotations

import jinja2
from markupsafe import Markup, escape

import gaincurate
from gaincurate.report import formatting
from gaincurate.report.svg import draw


def prose(text: str) -> Markup:
    """A sentence of ours, which may hold texts of data: true minus signs, and backticks as code."""
    parts = formatting.shown(text).split("`")
    if len(parts) % 2 == 0:  # a lone backtick is a backtick
        return escape("`".join(parts))
    code = Markup("<code>{}</code>")
    return Markup("").join(
        code.format(p) if i % 2 else escape(formatting.typeset(p)) for i, p in enumerate(parts)
    )


def environment(package: str) -> jinja2.Environment:
    """What fills in the templates of a package, which come before the shared ones."""
    loaders = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, "gaincurate.report"))]
    templates = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # What stands in the page as it is goes through this, so that no template can forget it.
        finalize=lambda value: formatting.shown(value) if type(value) is str else value,
    )
    templates.filters.update(
        count=formatting.count,
        signed=formatting.signed,
        share=formatting.share,
        plain=formatting.plain,
        prose=prose,
        draw=draw,
        kind=lambda block: type(block).__name__,
    )
    templates.globals.update(version=gaincurate.__version__)
    return templates

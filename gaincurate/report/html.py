"""Parts of every page: the templates, the filters of their numbers, and sentences as markup.

A page asks for nothing: styles and pictures are in it, and its own policy forbids requests and scripts. Only
the page of every prompt has a script, which its policy names by its hash. So a prompt that slipped through
as markup could still do nothing.

Pictures are drawn when the page is written, and not by a script in the reader's browser. So the page needs no
plotting code (0.9 MB for vega, 4.8 MB for plotly), prints, and shows where scripts are forbidden. Colours are
CSS variables, so one picture serves light and dark.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

import jinja2
import vl_convert
from markupsafe import Markup, escape

import gaincurate
from gaincurate.report import formatting
from gaincurate.report.formatting import shown
from gaincurate.report.parts import Picture, Spec
from gaincurate.report.plots import INK, MUTED, RULE

_LEFT_OUT = {
    "role",
    "aria-roledescription",
    "aria-hidden",
    "aria-label",
    "pointer-events",
    "font-family",
    "class",
}
_DIGITS = re.compile(r"(\.\d\d)\d+")


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
    """The environment for a package's templates, which take precedence over the shared ones."""
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


_SIZES = {"labelFontSize": 11, "titleFontSize": 12}
_AXIS = {
    **dict.fromkeys(("domainColor", "gridColor", "tickColor"), RULE),
    "labelColor": MUTED,
    "titleColor": INK,
    **_SIZES,
    "titleFontWeight": "normal",
    "tickSize": 4,
    "titlePadding": 8,
}
_CONFIG: Spec = {
    # This font travels with vl-convert, so that text is measured alike on every machine; where the picture is
    # shown, the page's own font takes its place.
    "font": "Liberation Sans",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": _AXIS,
    "legend": {"labelColor": INK, "titleColor": INK, **_SIZES},
    "text": {"color": INK, "fontSize": 11},
    "title": {"color": INK, "fontSize": 12, "fontWeight": "normal"},
}


def draw(picture: Picture) -> Markup:
    """One `<svg>` element, as wide as its place allows.

    The texts of its specification must be free of control characters (`formatting.line`), which XML has no
    place for.
    """
    drawn = ElementTree.fromstring(vl_convert.vegalite_to_svg({**picture.spec, "config": _CONFIG}))
    for element in drawn.iter():
        element.tag = element.tag.removeprefix("{http://www.w3.org/2000/svg}")
        for name in _LEFT_OUT & element.attrib.keys():
            del element.attrib[name]
        if "d" in element.attrib:
            element.attrib["d"] = _DIGITS.sub(r"\1", element.attrib["d"])
    for part in drawn:
        part.attrib["aria-hidden"] = "true"  # else the numbers on the axes are read out one by one
    shape = {"class": "plot", "role": "img", "aria-label": shown(picture.sentence)}
    width = round(float(drawn.attrib["width"]))
    drawn.attrib = {**shape, "viewBox": drawn.attrib["viewBox"], "style": f"--own:{width}px"}
    return Markup(ElementTree.tostring(drawn, encoding="unicode"))

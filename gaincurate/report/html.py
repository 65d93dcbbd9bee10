"""Parts of every page: the templates, the filters of their numbers, and sentences as markup.

A page makes no requests: styles and pictures are in it, and its own policy forbids requests and scripts. Only
the page of every prompt has a script, which its policy names by a hash. So a prompt that slipped through as
markup could not run.

Pictures are drawn when the page is written, and not by a script in the reader's browser. So the page needs no
plotting code (0.9 MB for vega, 4.8 MB for plotly), prints, and shows where scripts are forbidden. Colours are
CSS variables, so one picture serves light and dark.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import jinja2
import vl_convert
from markupsafe import Markup, escape

import gaincurate
from gaincurate.report.parts import Picture, Spec, count, plain, share, shown, signed, typeset
from gaincurate.report.plots import INK, MUTED, RULE

_LEFT_OUT = {"role", "pointer-events", "font-family", "class"}  # and what begins with aria-
_DIGITS = re.compile(r"(\.\d\d)\d+")


def prose(text: str) -> Markup:
    """A sentence with true minus signs, and backticks as code; texts of the data in it are escaped."""
    parts = shown(text).split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick is no markup
        return escape("`".join(parts))
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(p) if i % 2 else escape(typeset(p)) for i, p in enumerate(parts))


def page(template: str, package: str = "gaincurate.report", **values: Any) -> str:
    """The page of a package's template, whose templates take precedence over the shared ones."""
    loaders = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, "gaincurate.report"))]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Every text in a page passes this function, so that no template can forget it.
        finalize=lambda value: shown(value) if type(value) is str else value,
    )
    filters = {"count": count, "signed": signed, "share": share, "plain": plain, "prose": prose, "draw": draw}
    environment.filters.update(filters, kind=lambda block: type(block).__name__)
    return environment.get_template(template).render(version=gaincurate.__version__, **values)


_AXIS: Spec = {**dict.fromkeys(("domainColor", "gridColor", "tickColor"), RULE), "labelColor": MUTED}
_AXIS |= {"titleColor": INK, "titleFontWeight": "normal", "labelFontSize": 11, "titleFontSize": 12}
_CONFIG: Spec = {
    # vl-convert includes this font, so text is measured alike on every machine; the page shows it in its own
    # font.
    "font": "Liberation Sans",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": _AXIS | {"tickSize": 4, "titlePadding": 8},
}


def draw(picture: Picture) -> Markup:
    """One `<svg>` element, as wide as its place allows.

    The texts of its specification must be free of control characters (`parts.line`), which XML forbids.
    """
    drawn = ElementTree.fromstring(vl_convert.vegalite_to_svg({**picture.spec, "config": _CONFIG}))
    for element in drawn.iter():
        element.tag = element.tag.removeprefix("{http://www.w3.org/2000/svg}")
        for name in [n for n in element.attrib if n in _LEFT_OUT or n.startswith("aria-")]:
            del element.attrib[name]
        if "d" in element.attrib:
            element.attrib["d"] = _DIGITS.sub(r"\1", element.attrib["d"])
    for part in drawn:
        part.attrib["aria-hidden"] = "true"  # else the numbers on the axes are read out one by one
    shape = {"class": "plot", "role": "img", "aria-label": shown(picture.sentence)}
    width = round(float(drawn.attrib["width"]))
    drawn.attrib = {**shape, "viewBox": drawn.attrib["viewBox"], "style": f"--own:{width}px"}
    return Markup(ElementTree.tostring(drawn, encoding="unicode"))

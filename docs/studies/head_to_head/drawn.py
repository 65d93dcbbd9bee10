"""The page's pictures as SVG files: takes the figures, yields texts by file name.

A file shown by another page cannot ask it for colours, so each has the light ones and paper of its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gaincurate.report
from gaincurate.compare import contents
from gaincurate.report.html import draw

_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
_PAD = 10  # pixels on the left, where other fonts make the names of arms wider


def pictures(found: dict[str, Any]) -> dict[str, str]:
    """SVG files by name; what there is nothing of is left out."""
    made = {
        "tokens": contents.curves(found, "tokens"),
        "seconds": contents.curves(found, "seconds"),
        "final": contents.final(found),
        "effective": contents.over_training(found, "effective", "effective prompts"),
    }
    return {f"{name}.svg": as_file(str(draw(drawn))) for name, drawn in made.items() if drawn}


def as_file(drawn: str) -> str:
    """A picture of a page as a file."""
    colours = _light()
    for name, colour in colours.items():
        drawn = drawn.replace(f"var(--{name})", colour)
    width, height = re.findall(r'viewBox="\S+ \S+ (\S+) (\S+)"', drawn)[0]
    size = f'width="{int(width) + _PAD}" height="{height}"'
    drawn = re.sub(r'viewBox="[^"]*"', f'viewBox="-{_PAD} 0 {int(width) + _PAD} {height}"', drawn, count=1)
    drawn = re.sub(r' style="--own:\d+px"', "", drawn, count=1)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONT}" '
    drawn = drawn.replace('<svg class="plot" ', head, 1)
    first = drawn.index(">") + 1
    return f'{drawn[:first]}<rect x="-{_PAD}" {size} fill="{colours["paper"]}" />{drawn[first:]}\n'


def _light() -> dict[str, str]:
    style = (Path(gaincurate.report.__file__).parent / "templates/style.css").read_text()
    return dict(re.findall(r"--(\w+): light-dark\((#\w+), #\w+\)", style))

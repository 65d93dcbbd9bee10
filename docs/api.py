"""Writes docs/api.md from signatures and docstrings: what can be imported and stays. `make docs` runs it."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

PARTS = {
    "Top level": ["gaincurate"],
    "Report": ["gaincurate.report.build:report"],
    "Hygiene": ["gaincurate.hygiene.checks:search", "gaincurate.hygiene.options:HygieneOptions"],
    "Pass rates": [
        "gaincurate.difficulty.rollout_set:pass_rates", "gaincurate.difficulty.rollout_set:outcome_lines"
    ],
    "Strategies of your own": [
        "gaincurate.schedule.base:Selector", "gaincurate.schedule.base:Pool",
        "gaincurate.schedule.base:Observed",
    ],
    "Loops of your own": ["gaincurate.trainers.session:place_beside"],
    "Replay": [
        "gaincurate.replay.buffer:ReplayBuffer", "gaincurate.replay.config:ReplayConfig",
        "gaincurate.replay.rows:encode", "gaincurate.replay.rows:decode",
    ],
    "Errors": ["gaincurate.errors"],
}  # fmt: skip
OBJECT = r"<factory>|<[^,\n]* at 0x[0-9a-f]+>"
"""A default that has no literal."""
SECTION = r"^(Args|Returns|Yields|Raises|Attributes):\n((?:    .*\n|\n(?=    ))+)"
"""Of a docstring."""
HEAD = """# Python

This page lists the stable Python API. [Trainers](trainers.md) and [TRL](trl.md) have the live adapters.
All errors are subclasses of `gaincurate.errors.GaincurateError`. Type checkers know the keywords of `score`
and `Schedule.start`.
`make docs` writes this page from signatures and docstrings.
"""


def named(place: str) -> list[tuple[str, Any]]:
    """The objects of `module:name`, or those that a module defines or lists, with their import paths."""
    module, _, name = place.partition(":")
    loaded = importlib.import_module(module)
    own = [key for key, value in vars(loaded).items() if getattr(value, "__module__", "") == module]
    public = [name] if name else getattr(loaded, "__all__", [each for each in own if each[0].isupper()])
    return [(f"{module}.{each}", getattr(loaded, each)) for each in public]


def signature(thing: Any) -> str:
    """Its call, a parameter a line where it is long."""
    try:
        call = inspect.signature(thing)
    except ValueError:
        return ""
    text = re.sub(OBJECT, "...", str(call)).replace("''", '""').replace("'", "")
    if len(text) <= 80:
        return text
    parts, star = list[str](), False
    for each in call.parameters.values():
        parts += ["*"] if each.kind is each.KEYWORD_ONLY and not star else []
        star = star or each.kind is each.KEYWORD_ONLY
        parts.append(re.sub(OBJECT, "...", str(each)).replace("''", '""').replace("'", ""))
    return "(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def entry(path: str, thing: Any, level: int = 3) -> str:
    """A heading, the call and the docstring, and the public methods of a class below."""
    documented = inspect.isclass(thing) and (issubclass(thing, Exception) or hasattr(thing, "model_fields"))
    call = "" if documented else f"```text\n{path.rpartition('.')[2]}{signature(thing)}\n```\n\n"
    text = f"{'#' * level} `{path}`\n\n{call}{inspect.getdoc(thing) or ''}\n\n"
    text = re.sub(
        r"^(Args|Returns|Yields|Raises|Attributes):\n((?:    .*\n|\n(?=    ))+)", _listed, text, flags=re.M
    )
    if inspect.isclass(thing) and not documented:
        for name, member in vars(thing).items():
            plain = getattr(member, "__func__", member)
            if not name.startswith("_") and inspect.isfunction(plain):
                text += entry(f"{path.rpartition('.')[2]}.{name}", getattr(thing, name), level + 1)
    return text


def _listed(section: re.Match[str]) -> str:
    entries = re.sub(r"\n {8,}", " ", section[2])
    items = re.sub(r"^    (\**\w+): ", r"- `\1`: ", entries, flags=re.MULTILINE)
    return f"{section[1]}:\n\n" + re.sub(r"^    ", "", items, flags=re.MULTILINE)


def page() -> str:
    """The whole page."""
    sections = (
        f"## {title}\n\n" + "".join(entry(*each) for place in places for each in named(place))
        for title, places in PARTS.items()
    )
    return re.sub(r"\n{3,}", "\n\n", HEAD + "\n" + "".join(sections)).rstrip() + "\n"


if __name__ == "__main__":
    Path(sys.argv[1] if sys.argv[1:] else "docs/api.md").write_text(page())

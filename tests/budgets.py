"""Sizes that may only fall: lines of each package, and the calls of two trips through the code.

    python tests/budgets.py           print the numbers of this checkout
    python tests/budgets.py --write   store them in budgets.json; where one rises, say what the new code replaces

A trip counts our own functions: how often they are called (a generator once), how many they are, in how many files.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
BUDGETS = Path(__file__).with_suffix(".json")


def lines(folder: str) -> dict[str, int]:
    """Lines of Python in each package of a folder; `.` has the files beside the packages."""
    found: Counter[str] = Counter()
    for path in (ROOT / folder).rglob("*.py"):
        parts = path.relative_to(ROOT / folder).parts
        found[parts[0] if len(parts) > 1 else "."] += path.read_text().count("\n")
    return dict(sorted(found.items()))


def trip(work: Callable[[], object]) -> dict[str, int]:
    """What work calls of our functions."""
    called: Counter[CodeType] = Counter()
    generators: dict[int, FrameType] = {}  # keeps frames alive, so that no other one gets their address
    ours = (str(ROOT / "gaincurate"), str(ROOT / "kernels"))

    def hear(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(ours) or id(frame) in generators:
            return
        if code.co_flags & inspect.CO_GENERATOR:
            generators[id(frame)] = frame
        if code.co_name not in ("<module>", "<genexpr>"):
            called[code] += 1

    sys.setprofile(hear)
    try:
        work()
    finally:
        sys.setprofile(None)
    return {
        "calls": called.total(),
        "functions": len(called),
        "files": len({code.co_filename for code in called}),
    }


def next_round(folder: Path) -> dict[str, int]:
    """A `schedule next` that draws 8 of 60 prompts uniformly."""
    import runs
    from gaincurate.schedule.rounds import advance
    from gaincurate.schedule.run import Run

    run = runs.begin(folder, strategy="uniform")
    runs.report(run)
    return trip(lambda: advance(Run(run.folder)))


def until_weights(folder: Path) -> dict[str, int]:
    """A scoring run until it loads the weights."""
    import transformers

    import tiny
    from gaincurate import score

    class Loading(BaseException):
        """The weights would be loaded now."""

    def load(*_: Any, **__: Any) -> None:
        raise Loading

    folder.mkdir()
    data = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(8))
    model = tiny.save_model(folder / "model")

    def work() -> None:
        with suppress(Loading), patch.object(transformers.AutoModel, "from_pretrained", load):
            score(str(data), str(model), folder / "out", device="cpu", threads=1)
            raise AssertionError("no weights were loaded")

    return trip(work)


def measured() -> dict[str, Any]:
    """All numbers. A trip is made twice, and the second is counted: imports are not a part of it."""
    trips = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, make in {
            "schedule next": next_round,
            "score until the weights load": until_weights,
        }.items():
            make(Path(temporary, f"{make.__name__}-0"))
            trips[name] = make(Path(temporary, f"{make.__name__}-1"))
    source = lines("gaincurate") | {"kernels": lines("kernels")["gaincurate_kernels"]}
    return {"gaincurate": source, "tests": lines("tests"), "trips": trips}


def over(now: dict[str, Any], budgets: dict[str, Any], place: str = "") -> list[str]:
    """Each number that is over its budget, and what has none."""
    found = []
    for name, value in now.items():
        budget = budgets.get(name)
        if isinstance(value, dict):
            found += over(value, budget or {}, f"{place}{name}: ")
        elif budget is None or value > budget:
            found.append(f"{place}{name} is {value:,}, and its budget is {budget or 0:,}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    numbers = json.dumps(measured(), indent=1) + "\n"
    BUDGETS.write_text(numbers) if parser.parse_args().write else sys.stdout.write(numbers)

from __future__ import annotations

from pathlib import Path

from gaincurate.trainers.profile import Layout, layouts

PAGE = Path(__file__).parents[2] / "docs/checkpoints.md"


def code(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values) or "-"


def row(layout: Layout) -> list[str]:
    return [layout.trainer, code(layout.weights), f"`{layout.setting}`"]


def test_the_table_in_the_docs_is_the_modules() -> None:
    lines = PAGE.read_text().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("| trainer | complete when |"))
    rows = [row(layout) for layout in layouts().values()]
    cells = [line.strip("| ").split(" | ") for line in lines[start + 2 : start + 2 + len(rows)]]
    assert [[trainer, weights, setting] for trainer, _, weights, setting in cells] == rows
    assert not lines[start + 2 + len(rows)].startswith("|")

from __future__ import annotations

from pathlib import Path

from gaincurate.trainers.profile import Layout, layouts, profile_of

PAGE = Path(__file__).parents[2] / "docs/checkpoints.md"


def code(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values) or "-"


def row(layout: Layout) -> str:
    cells = [
        layout.trainer,
        profile_of(layout.trainer).version,
        code(layout.folders),
        layout.marker,
        code(layout.weights),
        code(layout.adapters),
        f"`{layout.setting}`" if layout.setting else "-",
    ]
    return f"| {' | '.join(cells)} |"


def test_the_table_in_the_docs_is_the_modules() -> None:
    lines = PAGE.read_text().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("| trainer | read |"))
    rows = [row(layout) for layout in layouts().values()]
    assert lines[start + 2 : start + 2 + len(rows)] == rows
    assert not lines[start + 2 + len(rows)].startswith("|")

from __future__ import annotations

from pathlib import Path

from gaincurate.trainers.profile import Layout, layouts

PAGE = Path(__file__).parents[2] / "docs/schedule.md"


def code(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values) or "-"


def row(layout: Layout) -> str:
    cells = [
        layout.trainer,
        layout.version,
        code(layout.folders),
        layout.marker,
        code(layout.weights),
        code(layout.adapters),
        f"`{layout.setting}`" if layout.setting else "-",
    ]
    return f"| {' | '.join(cells)} |"


def converting(layout: Layout) -> list[str]:
    return [
        f"| {layout.trainer} | `{shards.files}` | {f'`{shards.convert}`' if shards.convert else 'none'} |"
        for shards in layout.sharded
    ]


def test_the_tables_in_the_docs_are_the_modules() -> None:
    lines = PAGE.read_text().splitlines()
    for head, rows in (
        ("| trainer | read |", [row(layout) for layout in layouts().values()]),
        ("| trainer | weights |", [line for layout in layouts().values() for line in converting(layout)]),
    ):
        start = next(place for place, line in enumerate(lines) if line.startswith(head))
        assert lines[start + 2 : start + 2 + len(rows)] == rows
        assert not lines[start + 2 + len(rows)].startswith("|")

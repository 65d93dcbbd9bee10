"""docs/head-to-head.md: written from what is kept of the study alone, and written again the same."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

import compare_results
from column_sets import column_set
from gaincurate.compare.document import document
from gaincurate.compare.results import FACTS, RESULTS, SCHEMAS, TASKS, read_results

DOCS = Path(__file__).parent.parent.parent / "docs"
FOLDER = DOCS / "studies/head_to_head"
NAMES = ("page", "kept", "drawn")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("page")
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            del sys.modules[name]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison with sets and a model that are there."""
    folder = tmp_path_factory.mktemp("study")
    out = compare_results.example(folder / "compared", prompts=40)
    names = [{"gc_id": f"id-{q:04d}", "task": f"task{q % 3} {1 + q % 2}"} for q in range(40)]
    with pa.ipc.new_file(out / RESULTS / f"{TASKS}.arrow", SCHEMAS[TASKS]) as writer:
        writer.write_table(pa.Table.from_pylist(names, SCHEMAS[TASKS]))
    tasks = {"source": [f"task{row % 3}" for row in range(40)], "level": [1 + row % 2 for row in range(40)]}
    for name, source in (("scored", None), ("heldout", tasks)):
        rows = 50 if source is None else 40
        column_set(folder / "sets" / name, list(range(3, rows + 3)), {"gc_angle": [0.5] * rows}, source)
    facts = json.loads((out / FACTS).read_bytes())
    facts["comparison"] |= {name: str(folder / "sets" / name) for name in ("scored", "heldout")}
    facts["model"] = facts["comparison"]["model"] = str(folder / "model")
    (out / FACTS).write_text(json.dumps(facts))
    (folder / "model").mkdir()
    rates = {"all": {"prompts": 50, "mean": 0.25, "by rate": {"0": 20, "to .5": 30}}}
    model = {"parameters": 3_000_000, "steps": 7, "examples": 8, "sha256": "ab" * 32, "pass_rates": rates}
    (folder / "model" / "facts.json").write_text(json.dumps(model))
    return out


@pytest.fixture(scope="module")
def written(script: ModuleType, compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "studies/head_to_head"
    script.keep(compared, folder)
    script.write(folder, folder.parent.parent / script.NAME)
    return folder


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{where}.{name}")
    else:
        yield where, value


def same(first: Any, second: Any) -> None:
    """Equal, numbers up to what seven digits and another processor's sums leave."""
    one, other = dict(leaves(first)), dict(leaves(second))
    assert one.keys() == other.keys()
    for name, value in one.items():
        expected = pytest.approx(value, rel=1e-5, abs=1e-7) if isinstance(value, float) else value
        assert other[name] == expected, name


def test_what_is_kept_gives_the_comparisons_own_figures(compared: Path, written: Path) -> None:
    found = json.loads((written / "figures.json").read_bytes())
    expected = document(read_results(compared))
    for each in (found, expected):
        del each["setting"]["comparison"], each["setting"]["model"]  # paths, which are not kept
    about = found.pop("about")
    same(found, expected)
    assert about["prompts"] == {"scored": 50, "heldout": 40}


def test_no_path_of_a_machine_is_kept(written: Path, compared: Path) -> None:
    for path in [*written.iterdir(), written.parent.parent / "head-to-head.md"]:
        assert str(compared.parent) not in path.read_text()


@pytest.mark.skipif(not (FOLDER / "figures.json").exists(), reason="the study's results are not there yet")
def test_the_page_that_is_there_is_the_scripts(script: ModuleType) -> None:
    found = json.loads((FOLDER / script.FIGURES).read_bytes())
    assert (DOCS / script.NAME).read_text() == script.page(found)
    same(found, script.figures(FOLDER))
    for name, drawn in script.pictures(found).items():
        assert (FOLDER / name).read_text() == drawn

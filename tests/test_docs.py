from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gaincurate.schema import SCORE_FIELDS

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "kernels/README.md",
    *sorted(ROOT.glob("docs/*.md")),
]


def test_the_command_line_reference_is_what_the_commands_say(tmp_path: Path) -> None:
    fresh = tmp_path / "cli.md"
    typer = [sys.executable, "-m", "typer", "gaincurate.cli.app", "utils", "docs", "--name", "gaincurate"]
    subprocess.run([*typer, "--output", str(fresh)], check=True, capture_output=True, cwd=ROOT)
    assert (ROOT / "docs/cli.md").read_text() == fresh.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_every_file_in_the_readme_tree_exists_and_none_is_missing() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text[text.index("## The tree") :]
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    folders = (ROOT / "gaincurate", ROOT / "kernels/gaincurate_kernels")
    files = [path for folder in folders for path in folder.rglob("*.py")]
    actual = {path.name for path in files if path.parent.name != "cli"}
    hidden = {"__init__.py", "__main__.py", "config.py", "errors.py", "stats.py"}
    assert actual - hidden <= named
    assert named - {"output.py"} <= actual


def test_every_score_column_is_described_with_its_type() -> None:
    page = (ROOT / "docs/shard-format.md").read_text()
    for field in SCORE_FIELDS:
        kind = {"float": "float32"}.get(str(field.type), str(field.type))
        assert f"| `{field.name}` | {kind} |" in page


def test_every_makefile_target_that_the_readme_and_the_docs_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for page in PAGES for name in re.findall(r"\bmake ([a-z-]+)\b(?= {2,}#|`|$)", page.read_text())
    }
    assert named
    assert named <= targets


def test_python_in_the_docs_compiles() -> None:
    blocks = [b for page in PAGES for b in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert blocks
    for block in blocks:
        compile(block, "docs", "exec")

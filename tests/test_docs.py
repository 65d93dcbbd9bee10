from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gaincurate.core.schema import SCORE_FIELDS
from gaincurate.schedule.config import STRATEGIES

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "kernels/README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/studies/*/README.md")),
]


def test_every_option_that_a_page_types_is_one_of_its_command() -> None:
    """The Makefile's `static` sees that docs/cli.md is fresh."""
    reference = (ROOT / "docs/cli.md").read_text()
    sections = re.split(r"^#+ `gaincurate ?([a-z ]*)`$", reference, flags=re.MULTILINE)[1:]
    options = {
        name: {
            each
            for line in re.findall(r"^\* (`-.*?`)", text, re.MULTILINE)
            for each in re.findall(r"--?[a-z-]+", line)
        }
        for name, text in zip(sections[::2], sections[1::2], strict=True)
    }
    typed = 0
    for page in (page for page in PAGES if page.name != "CHANGELOG.md"):
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^\$ gaincurate (.*)$|`gaincurate ([^`]*)`", text, re.MULTILINE):
            words = re.split(r" -- | #", "".join(line))[0].split()
            name = next((" ".join(words[:n]) for n in (2, 1, 0) if " ".join(words[:n]) in options), "")
            given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert given <= options[name] | {"--help"}, (page.name, line)
            typed += len(given)
    assert typed > 100


def test_the_list_for_language_models_has_every_page() -> None:
    pages = set(re.findall(r"\]\(([\w-]+)(?:/|\.html)\)", (ROOT / "docs/llms.txt").read_text()))
    assert pages == {path.stem for path in ROOT.glob("docs/*.md")}
    assert len((ROOT / "docs/AGENTS.md").read_text().splitlines()) < 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)(?:#([^)\s]+))?[)\s]", page.read_text()):
        place = page.parent / target if target else page
        assert place.exists(), target
        if anchor:
            text = re.sub(r"```.*?```", "", place.read_text(), flags=re.DOTALL)
            heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            plain = (re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads)
            assert anchor in {re.sub(r"\s", "-", head) for head in plain}


def test_every_page_is_in_the_sites_navigation_once_and_every_entry_is_a_page() -> None:
    def pages(entries: Any) -> list[str]:
        if isinstance(entries, str):
            return [entries]
        return [page for each in entries for page in pages(each.values() if isinstance(each, dict) else each)]

    site = tomllib.loads((ROOT / "docs/zensical.toml").read_text())["project"]
    assert sorted(pages(site["nav"])) == sorted(path.name for path in ROOT.glob("docs/*.md"))


def test_every_score_column_is_described_with_its_type() -> None:
    page = (ROOT / "docs/shard-format.md").read_text()
    for field in SCORE_FIELDS:
        kind = {"float": "float32"}.get(str(field.type), str(field.type))
        assert f"| `{field.name}` | {kind} |" in page


def test_every_strategy_stands_in_the_help_and_in_the_table_of_the_docs() -> None:
    page = (ROOT / "docs/schedule.md").read_text()
    table = page[page.index("| `--strategy` |") :].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `([a-z][a-z-]*)` \|", table, re.MULTILINE)) == sorted(STRATEGIES)
    reference = (ROOT / "docs/cli.md").read_text()
    (shown,) = re.findall(r"^\* `--strategy NAME`: (.*)\.  \[required\]$", reference, re.MULTILINE)
    assert shown == f"{', '.join(STRATEGIES)}, or module:Class for your own"


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

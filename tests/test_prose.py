"""Docs and help are written in plain English: a short list of words that we had to correct too often, and semicolons.

Each word has a plainer one that says the same. Code, quoted names and the notes of generated recipes are left out.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DENIED = {
    r"anew": "again",
    r"mend(s|ed|ing)?": "fix",
    r"told(?! apart)": "reported, said",
    r"shall": "will, is to",
    r"hence|henceforth|thereby|thereof|therein|whilst": "so, by that, of it, in it, while",
    r"behind (the|a|step|its|all|each|every|that) ": "after",
    r"utili[sz]e[sd]?|leverag(e|es|ed|ing)": "use",
    r"seamless(ly)?|effortless(ly)?|blazing(ly)?|cutting-edge|state-of-the-art": "a figure, or nothing",
    r"simply|obviously|of course|needless to say": "nothing",
}
"""A word and what to write in its place."""
SEMICOLONS = 4.0
"""Of 1,000 words. A full stop usually does."""
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted(ROOT.glob("docs/*.md")) if page.name not in ("cli.md", "api.md")),
    ROOT / "docs/studies/head_to_head/template.txt",
]
MANNER = (
    r"beside|stands?(?! for|-in)|stood|said|go(es)? (by|along|on)|as ever|where there (is|are|was|were)|at hand|"
    r"to be (had|seen|found)|but for|for want of|of (one's|its|their) own|some \d|so many|whoever|dear"
)
"""Ellipsis and inversion, by words that these pages do not need otherwise; with sentences that begin with What or Who."""
HELP = ROOT / "docs/cli.md"  # generated from every help text; test_docs.py sees that it is fresh
API = ROOT / "docs/api.md"  # generated from docstrings
IN_CODE_YET = {"anew", r"told(?! apart)"}


def without_tables(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


def prose(page: Path) -> str:
    """A page without code, the targets of links, and tables that are written from the trainers' profiles."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    text = without_tables(text) if page.name in ("checkpoints.md", "segment-mode.md") else text
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "`code`", text))


@pytest.mark.parametrize("page", [*PAGES, HELP, API], ids=lambda page: page.stem)
def test_there_is_a_plainer_word(page: Path) -> None:
    text = prose(page)
    hits = [
        f"{match[0]!r}: write {plain!r}"
        for word, plain in DENIED.items()
        for match in re.finditer(rf"\b({word})(?!\w)", text, re.IGNORECASE)
    ]
    assert not hits


def test_there_is_a_plainer_word_in_messages_and_docstrings() -> None:
    words = "|".join(DENIED.keys() - IN_CODE_YET)
    for path in [*ROOT.glob("gaincurate/**/*.py"), *ROOT.glob("kernels/**/*.py")]:
        texts = (
            node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
        )
        text = "\n".join(value for value in texts if isinstance(value, str) and " " in value)
        assert not re.findall(rf"\b({words})(?!\w)", re.sub(r"`[^`]*`", "`code`", text), re.IGNORECASE), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sentences_are_whole_and_in_order(page: Path) -> None:
    text = prose(page)
    hits = re.finditer(rf"\b({MANNER})(?!\w)|(?<=[.:;] )(What|Who|Nothing)\b[^?]*?[.\n]", text, re.IGNORECASE)
    assert not [text[max(0, hit.start() - 30) : hit.end() + 30] for hit in hits]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_most_sentences_end_with_a_full_stop(page: Path) -> None:
    text = without_tables(prose(page))
    assert text.count(";") <= 1 + SEMICOLONS * len(re.findall(r"\w+", text)) / 1000

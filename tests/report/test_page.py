from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import documents
from column_sets import column_set
from gaincurate.report.build import report
from gaincurate.report.contents import to_html
from gaincurate.report.html import prose
from gaincurate.report.parts import typeset
from gaincurate.report.verdict import alike
from html_reader import Reader

# Markup, ends of elements and comments, quotes, a template's own marks, lines that end, text turned round, no shape.
HOSTILE = "<script>alert(1)</script></script><!--]]>\"'&amp;<img src=x onerror=alert(2)>{{ 7 * 7 }}\u2028\u202e\x00\x1b\ud800"
HOSTILE += "\u202c" + "x" * 300


@pytest.fixture(scope="module")
def html() -> str:
    return to_html(documents.example())


@pytest.fixture(scope="module")
def read(html: str) -> Reader:
    return Reader(html)


def hostile(value: Any) -> Any:
    """The same document with a hostile text in place of each text that comes from data; equal texts stay equal."""
    if isinstance(value, str):
        return f"{value}{HOSTILE}" if value else value
    if isinstance(value, list):
        return [hostile(item) for item in value]
    if isinstance(value, dict):
        ours = {"gc_id", "text", "with"}
        return {key if key in ours else hostile(key): hostile(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        ours = {"verdict", "role", "run", "end"}
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return replace(value, **{k: v if k in ours else hostile(v) for k, v in fields.items()})
    return value


def test_the_page_is_one_well_formed_document_that_asks_for_nothing(read: Reader, html: str) -> None:
    assert read.open == []
    tags = read.tags()
    assert not tags.keys() & {"script", "iframe", "object", "embed", "img", "form", "base"}
    assert (tags["html"], tags["head"], tags["body"], tags["main"], tags["h1"]) == (1,) * 5
    assert tags["caption"] == tags["table"] > 10
    assert all("scope" in a for a in read.all("th"))
    policy = next(a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy
    links = [a[name] for tag, a in read.elements for name in ("href", "src", "xlink:href") if name in a]
    assert {link for link in links if link and not link.startswith("#")} == {"data:,"}
    assert not re.search(r"https?://|@import|url\(", html)
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in read.all("a")} <= {f"#{name}" for name in ids}
    assert {a["aria-labelledby"] for _, a in read.elements if "aria-labelledby" in a} <= set(ids)
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(html) < 400_000


def test_every_picture_has_a_sentence(read: Reader) -> None:
    document, pictures = documents.example(), read.all("svg")
    targets = len({r.target for r in document.relations}) + len({r.target for r in document.lifts})
    drawn = len(document.scatters) + targets
    assert len(pictures) == drawn + 1  # and the rounds of the run
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 30 for a in pictures)


def test_the_first_screen_says_what_the_document_says(read: Reader) -> None:
    document = documents.example()
    first = read.text.split("Parts of this page")[0]
    for said in (document.headline, *(v.sentence for v in document.verdicts), "What to do next"):
        assert typeset(said) in first
    assert document.verdicts[0].banner is not None
    assert first.count(typeset(document.verdicts[0].banner)) == 1
    parts = [a["id"] for a in read.all("section") if a.get("class") == "part"]
    assert parts[0] == "run"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("from -0.3 (-0.4 to +0.1): 2-3 rows", "from −0.3 (−0.4 to +0.1): 2-3 rows"),
        ("run `a -1 <b>` or <c>", "run <code>a -1 &lt;b&gt;</code> or &lt;c&gt;"),
        ("one ` only -1", "one ` only -1"),
        ("\u202e `\x00`", "\\u202e <code>\\u0000</code>"),
    ],
)
def test_sentences_are_set_with_minus_signs_and_code(text: str, seen: str) -> None:
    assert prose(text) == seen


def test_texts_of_data_are_shown_as_text_wherever_they_stand() -> None:
    page = to_html(hostile(documents.example()))
    page.encode()
    found = Reader(page)
    assert found.open == []
    assert not found.tags().keys() & {"script", "img"}
    assert not [a for _, a in found.elements if any(name.startswith("on") for name in a)]
    assert (
        "<script>alert(1)</script></script><!--]]>\"'&amp;<img src=x onerror=alert(2)>{{ 7 * 7 }}"
        in found.text
    )
    assert "\\u2028\\u202e\\u0000\\u001b\\ud800\\u202c" in found.text
    assert not re.search("[\x00\x1b\u2028\u202e\u202c]", page)


def test_a_set_of_which_little_is_known_has_a_page_of_what_there_is(tmp_path: Path) -> None:
    found = Reader(to_html(report(column_set(tmp_path / "set", [3, 4], {"gc_angle": [0.1, 0.2]}))))
    ids = {a["id"] for _, a in found.elements if "id" in a}
    assert {a["href"] for a in found.all("a")} <= {f"#{name}" for name in ids}
    assert not ids & {"relations", "lifts", "outcomes", "run"}
    assert "Too few rows to say" in found.text
    assert "cannot be said without pass rates" in found.text
    assert f"gaincurate hygiene {tmp_path / 'set'}" in found.text
    assert "--drop" not in found.text


def test_signals_with_one_verdict_share_a_row_and_those_worth_a_trial_do_not() -> None:
    base = documents.example()
    many = [replace(base.verdicts[k % 2], signal=f"signal{k}", banner=None) for k in range(4)]
    assert [len(row) for row in alike(replace(base, verdicts=many))] == [4]
    worth = [replace(many[0], verdict="tells-more", sort_first="highest", signal=name) for name in "ab"]
    rows = alike(replace(base, verdicts=[*many, *worth]))
    assert [[verdict.signal for verdict in row] for row in rows] == [["a"], ["b"], [v.signal for v in many]]

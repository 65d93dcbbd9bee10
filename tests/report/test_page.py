from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest

import documents
from gaincurate.core.stats import Estimate
from gaincurate.report.document import Distribution, Document, Histogram, Kind, Scatter
from gaincurate.report.formatting import typeset
from gaincurate.report.html import prose
from gaincurate.report.page import to_html
from gaincurate.report.verdict_text import alike, together
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
        return {hostile(key): hostile(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        ours = {"verdict", "role"}
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return replace(value, **{k: v if k in ours else hostile(v) for k, v in fields.items()})
    return value


def bare() -> Document:
    """A set of a few rows, with nothing known beside the scores."""
    base = documents.example()
    nothing = Estimate(None, None, None, 2)
    empty = Distribution("gc_angle", 0, 2, 0, None, [], Histogram([], [], 0, 0))
    return replace(
        base,
        about=replace(base.about, group_column=None, groups=0, group_sizes={}, settings={}),
        unknown="Sample rollouts to know more.",
        verdicts=[
            replace(base.verdicts[1], verdict="not-enough-rows", target=None, estimate=None, length=nothing)
        ],
        distributions=[empty],
        scatters=[Scatter("gc_angle", [], [], [], 0, [], nothing)],
        matrix=[replace(cell, correlation=nothing) for cell in base.matrix],
        group_shares=[],
        relations=[],
        profiles=[],
        lifts=[],
        outcomes=[],
        group_rates=[],
        tenths=[],
        calibrations=[],
        against=[],
        ends=[],
        hygiene=[replace(base.hygiene[0], rows=0, share=0.0, examples=[], note="")],
        run=None,
        notes=[],
        methods={},
    )


def test_the_page_is_one_well_formed_document_without_scripts(read: Reader) -> None:
    assert read.open == []
    tags = read.tags()
    assert not tags.keys() & {"script", "iframe", "object", "embed", "img", "form", "base"}
    assert (tags["html"], tags["head"], tags["body"], tags["main"], tags["h1"]) == (1,) * 5
    assert read.all("html") == [{"lang": "en"}]


def test_the_page_asks_for_nothing_and_forbids_it(read: Reader, html: str) -> None:
    policy = next(a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy
    assert "http://" not in html
    assert "https://" not in html
    links = [a[name] for tag, a in read.elements for name in ("href", "src", "xlink:href") if name in a]
    assert {link for link in links if link and not link.startswith("#")} == {"data:,"}
    assert "@import" not in html
    assert "url(" not in html


def test_every_link_goes_somewhere_and_every_id_is_one(read: Reader) -> None:
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in read.all("a")} <= {f"#{name}" for name in ids}
    labelled = [a["aria-labelledby"] for _, a in read.elements if "aria-labelledby" in a]
    assert set(labelled) <= set(ids)


def test_headings_go_down_one_step_at_a_time(read: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_have_captions_and_their_heads_a_scope(read: Reader) -> None:
    tags = read.tags()
    assert tags["caption"] == tags["table"] > 10
    assert all("scope" in a for a in read.all("th"))


def test_every_picture_has_a_sentence(read: Reader) -> None:
    pictures = read.all("svg")
    # 6 histograms, 2 clouds, 3 targets, 1 batch, 1 calibration, 1 of the run, 2 of its predictions,
    # 1 of tenths, 1 of groups.
    assert len(pictures) == 18
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 30 for a in pictures)


def test_the_first_screen_says_what_the_document_says(read: Reader) -> None:
    document = documents.example()
    first = read.text.split("Parts of this page")[0]
    for said in (document.headline, *(v.sentence for v in document.verdicts), "What to do next"):
        assert typeset(said) in first
    assert document.verdicts[0].banner is not None
    assert first.count(typeset(document.verdicts[0].banner)) == 1


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


def test_the_numbers_of_the_document_are_in_the_page(read: Reader) -> None:
    assert "140" in read.text  # rows of a group
    assert "−0.22" in read.text
    assert "−0.34 to −0.10" in read.text
    for prompt in documents.example().ends[0].top:
        assert prompt.text in read.text


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


def test_a_set_of_which_little_is_known_has_a_page_of_what_there_is() -> None:
    found = Reader(to_html(bare()))
    ids = {a["id"] for _, a in found.elements if "id" in a}
    assert {a["href"] for a in found.all("a")} <= {f"#{name}" for name in ids}
    assert not ids & {"relations", "lifts", "profiles", "outcomes", "calibration", "stability", "run"}
    assert "Too few rows to say" in found.text
    assert "Sample rollouts to know more." in found.text
    assert "Nothing was found." in found.text
    assert found.all("svg") == []


def test_the_same_document_gives_the_same_bytes_in_another_process(html: str) -> None:
    code = "import documents, sys; from gaincurate.report.page import to_html; "
    code += "sys.stdout.buffer.write(to_html(documents.example()).encode())"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    ).stdout
    assert hashlib.sha256(other).digest() == hashlib.sha256(html.encode()).digest()


def test_the_size_does_not_grow_with_rows(html: str) -> None:
    base = documents.example()
    scatters = [replace(s, counts=[[1000 * n for n in column] for column in s.counts]) for s in base.scatters]
    many = replace(base, about=replace(base.about, rows=1_000_000), scatters=scatters)
    assert len(to_html(many)) < len(html) + 2000
    assert len(html) < 400_000


def test_few_rows_are_drawn_one_by_one_and_cheaply() -> None:
    base = documents.example()
    points = [[10.0 + k % 90, 0.3 + k / 10_000] for k in range(1999)]
    one = to_html(replace(base, scatters=[replace(base.scatters[0], points=points)]))
    none = to_html(replace(base, scatters=[replace(base.scatters[0], points=[])]))
    assert 1999 * 10 < len(one) - len(none) < 1999 * 40


def test_a_run_comes_before_everything_else_about_its_set(read: Reader) -> None:
    parts = [a["id"] for a in read.all("section") if a.get("class") == "part"]
    assert parts[0] == "run"


def test_signals_with_one_verdict_share_a_row_and_those_worth_a_trial_do_not() -> None:
    base = documents.example()
    many = [replace(base.verdicts[k % 2], signal=f"signal{k}", banner=None) for k in range(4)]
    assert [len(row) for row in alike(replace(base, verdicts=many))] == [4]
    worth = [replace(many[0], verdict="tells-more", sort_first="highest", signal=name) for name in "ab"]
    rows = alike(replace(base, verdicts=[*many, *worth]))
    assert [[verdict.signal for verdict in row] for row in rows] == [["a"], ["b"], [v.signal for v in many]]
    for kind in get_args(Kind):
        assert together([replace(many[0], verdict=kind)] * 2).endswith((".", "see each."))

"""The page of a comparison as a document: well formed, alone, whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

import compare_results
from gaincurate.compare.contents import to_html
from gaincurate.compare.document import document
from gaincurate.compare.results import read_results
from gaincurate.report.parts import signed, typeset
from html_reader import Reader

ARMS = {"uniform": 0.0, "length": -0.1, "angle": 0.05, "nll": 0.1, "variance": 1.0}
HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\u202e"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("compared") / "out"
    return document(read_results(compare_results.example(out, ARMS)))


@pytest.fixture(scope="module")
def html(told: dict[str, Any]) -> str:
    return to_html(told)


@pytest.fixture(scope="module")
def read(html: str) -> Reader:
    return Reader(html)


def test_the_page_is_one_well_formed_document_that_asks_for_nothing(read: Reader, html: str) -> None:
    assert read.open == []
    tags = read.tags()
    assert not tags.keys() & {"script", "iframe", "object", "embed", "img", "form", "base"}
    assert tags["caption"] == tags["table"]
    assert "http://" not in html
    assert "https://" not in html
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in read.all("a")} <= {f"#{name}" for name in ids}


def test_every_picture_has_a_sentence(read: Reader) -> None:
    pictures = read.all("svg")
    assert len(pictures) == 5
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 60 for a in pictures)


def test_the_page_says_what_the_document_says(read: Reader, told: dict[str, Any]) -> None:
    first = read.text.split("At the end")[0]
    assert typeset(told["headline"]) in first
    assert typeset(told["against_length"]) in first
    for arm in told["arms"]:
        assert typeset(arm["sentence"].split(". ", 1)[1]) in first
        assert signed(arm["difference"]["value"], 3) in read.text if arm["difference"] else True
        assert f"{arm['cost']['tokens']:,.0f}" in read.text
    assert "What this does not show" in read.text


def test_names_from_outside_are_text(told: dict[str, Any]) -> None:
    bad = copy.deepcopy(told)
    bad["setting"]["model"] = HOSTILE
    bad["setting"]["comparison"]["scored"] = HOSTILE
    bad["arms"][2]["settings"]["by"] = HOSTILE
    page = Reader(to_html(bad))
    assert page.open == []
    assert not page.all("script")
    assert "<script>alert(1)</script>\"'&{{ 7 * 7 }}\\u202e" in page.text


def test_one_seed_and_no_steps_have_a_page(tmp_path: Path) -> None:
    out = compare_results.example(tmp_path / "out", {"uniform": 0, "length": 0}, seeds=1, prompts=10)
    found = document(read_results(out))
    for arm in found["arms"]:
        for part in arm["training"]["parts"]:
            part.update(effective=None, reward=None)
    page = Reader(to_html(found))
    assert page.open == []
    assert "With one seed nothing can be said" in page.text
    assert len(page.all("svg")) == 3

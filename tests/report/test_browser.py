"""The page in a real Chromium: drawn, quiet, alone, readable, and used by keyboard, in light, dark and print."""

from __future__ import annotations

from pathlib import Path

import pytest

import documents
from chromium import FAINT, Chromium
from gaincurate.report.contents import to_html
from gaincurate.report.parts import shown

pytestmark = pytest.mark.slow

# Every plot: how wide and high it is drawn, how many marks it has, and whether their colours are resolved.
PLOTS = """[...document.querySelectorAll('svg.plot')].map(svg => {
  const marks = [...svg.querySelectorAll('path, line, rect')].map(m => [m.getBoundingClientRect(), getComputedStyle(m)])
    .filter(([box, style]) => (box.width > 0.5 || box.height > 0.5)
      && ((style.fill !== 'none' && style.fill.startsWith('rgb')) || style.stroke.startsWith('rgb')));
  const box = svg.getBoundingClientRect();
  return [svg.getAttribute('aria-label'), box.width, box.height, marks.length, svg.querySelectorAll('text').length];
})"""

ALL_SHOWN = "document.querySelectorAll('section.part').forEach(s => s.style.contentVisibility = 'visible')"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(253, 253, 251)", "rgb(20, 23, 26)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(to_html(documents.example()).encode())
    return path


def test_the_browser_of_these_tests_sees_what_goes_wrong(browser: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><link rel=icon href='data:,'><p style='color: #999'>faint</p><img src='http://a.example/b'>"
        "<script>console.error('oops')</script><script>throw Error('thrown')</script>"
    )
    browser.open(path)
    assert browser.requests == ["http://a.example/b"]
    assert any("oops" in problem for problem in browser.problems)
    assert any("thrown" in problem for problem in browser.problems)
    assert [text for text, _ in browser.run(FAINT)] == ["faint"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_plot_is_drawn_and_nothing_is_asked_for_or_complained_of(
    browser: Chromium, page: Path, scheme: str
) -> None:
    browser.open(page, prefers_color_scheme=scheme)
    browser.run(ALL_SHOWN)
    plots = browser.run(PLOTS)
    assert len(plots) == browser.run("document.querySelectorAll('figure').length") > 10
    for label, width, height, marks, texts in plots:
        assert width > 200, label
        assert height > 60, label
        assert marks >= 3, label
        assert texts >= 3, label
    assert browser.run(BACKGROUND) == (LIGHT if scheme == "light" else DARK)
    assert browser.run(FAINT) == []
    assert browser.problems == []
    assert browser.requests == []


def test_prompts_are_text_and_do_nothing(browser: Chromium, page: Path) -> None:
    browser.open(page)
    assert (
        browser.run("document.scripts.length + document.querySelectorAll('section img, section b').length")
        == 0
    )
    cells = browser.run("[...document.querySelectorAll('td.text')].map(cell => cell.textContent)")
    assert shown(documents.SCRIPT) in cells


def test_a_narrow_screen_scrolls_in_one_direction_only(browser: Chromium, page: Path) -> None:
    browser.open(page, width=400, height=800)
    browser.run(ALL_SHOWN)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("document.documentElement.scrollWidth") <= 400


def test_a_reader_of_the_screen_is_told_what_everything_is(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.run(ALL_SHOWN)
    nodes = [n for n in browser.ask("Accessibility.getFullAXTree")["nodes"] if not n.get("ignored")]
    roles = [node["role"]["value"] for node in nodes]
    assert (roles.count("main"), roles.count("banner"), roles.count("navigation")) == (1, 1, 1)
    named = {"image", "table", "region", "navigation", "link", "radio", "heading"}
    nameless = [n["role"]["value"] for n in nodes if n["role"]["value"] in named and not n["name"]["value"]]
    assert nameless == []
    assert roles.count("image") == browser.run("document.querySelectorAll('figure').length")
    # What is inside a picture is the picture's own business.
    pictures = {n["nodeId"] for n in nodes if n["role"]["value"] == "image"}
    assert not [n for n in nodes if n.get("parentId") in pictures]

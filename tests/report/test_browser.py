"""Both pages in a real Chromium: drawn, quiet, alone, readable, and used by hand and by keyboard."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

import documents
import prompt_pages
from chromium import FAINT, Chromium
from gaincurate.core.scored_set import ScoredSet
from gaincurate.report.contents import to_html
from gaincurate.report.parts import shown
from gaincurate.schedule.observations import matching

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
    foreign = "document.scripts.length + document.querySelectorAll('section img, section b').length"
    assert browser.run(foreign) == 0
    cells = browser.run("[...document.querySelectorAll('td.text')].map(cell => cell.textContent)")
    assert shown(prompt_pages.HOSTILE) in cells


def test_a_narrow_screen_scrolls_in_one_direction_only(browser: Chromium, page: Path) -> None:
    browser.open(page, width=400, height=800)
    browser.run(ALL_SHOWN)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("document.documentElement.scrollWidth") <= 400


def test_a_reader_of_the_screen_is_told_what_everything_is(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.run(ALL_SHOWN)
    nodes = told_all(browser)
    roles = [node["role"]["value"] for node in nodes]
    assert (roles.count("main"), roles.count("banner"), roles.count("navigation")) == (1, 1, 1)
    assert roles.count("image") == browser.run("document.querySelectorAll('figure').length")
    # What is inside a picture is the picture's own business.
    pictures = {n["nodeId"] for n in nodes if n["role"]["value"] == "image"}
    assert not [n for n in nodes if n.get("parentId") in pictures]


def told_all(browser: Chromium) -> list[dict[str, Any]]:
    """What a reader of the screen is told; what has a part to play there has a name."""
    nodes = [n for n in browser.ask("Accessibility.getFullAXTree")["nodes"] if not n.get("ignored")]
    named = {"image", "table", "region", "navigation", "link", "radio", "heading", "button", "combobox"}
    named |= {"searchbox", "spinbutton"}
    assert not [n for n in nodes if n["role"]["value"] in named and not n["name"]["value"]]
    return nodes


RATE = "pass rate (it's rates.jsonl)"
SHOWN = "[...document.querySelectorAll('#rows td.id')].map(cell => cell.textContent)"
COUNT = "document.getElementById('count').textContent"
COPIED = "document.getElementById('copy-text').value"


@pytest.fixture(scope="module")
def prompts_page(tmp_path_factory: pytest.TempPathFactory, prompt_set: Path, pass_rates: Path) -> Path:
    path = tmp_path_factory.mktemp("page") / "report-prompts.html"
    path.write_text(prompt_pages.page(prompt_set, pass_rates))
    return path


def write(browser: Chromium, selector: str, text: str) -> None:
    browser.run(
        f"(() => {{ const field = document.querySelector({selector!r}); field.value = {text!r}; "
        "field.dispatchEvent(new Event('input', {bubbles: true})); "
        "field.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


def click(browser: Chromium, selector: str) -> None:
    browser.run(f"document.querySelector({selector!r}).click()")


def head(browser: Chromium, name: str) -> Any:
    """Click on a column's name and give what the table then says of its order."""
    return browser.run(
        f"(() => {{ const cell = [...document.querySelectorAll('#head th')].find(c => c.textContent === {name!r}); "
        "cell.firstChild.click(); return cell.getAttribute('aria-sort'); })()"
    )


def copied_ids(browser: Chromium) -> list[str]:
    click(browser, "#copy-ids")
    return str(browser.run(COPIED)).splitlines()


def copied_rows(browser: Chromium, prompt_set: Path) -> set[str]:
    """The ids of the rows that the copied options choose of the set."""
    click(browser, "#copy-options")
    words = shlex.split(browser.run(COPIED))
    options = dict(zip(words[::2], words[1::2], strict=True))
    rollouts = options.get("--rollouts")
    scored = ScoredSet(prompt_set)
    rows = matching(scored, options["--where"], None if rollouts is None else Path(rollouts))[0]
    return {gc_id for gc_id, holds in zip(scored.column("gc_id").to_pylist(), rows, strict=True) if holds}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_drawn_alone_and_quiet(browser: Chromium, prompts_page: Path, scheme: str) -> None:
    browser.open(prompts_page, prefers_color_scheme=scheme)
    click(browser, "#filters summary")
    told_all(browser)
    click(browser, "td.asked button")
    assert browser.run(COUNT) == "60 of 60 prompts"
    assert browser.run(FAINT) == []
    plane = "document.getElementById('plane').getContext('2d')"
    assert browser.run(f"new Set({plane}.getImageData(0, 0, 800, 300).data).size") > 20
    assert browser.problems == []
    assert browser.requests == []


def test_hostile_prompts_are_text(browser: Chromium, prompts_page: Path) -> None:
    browser.open(prompts_page)
    write(browser, "#find", "onerror")
    assert browser.run(COUNT) == "1 of 60 prompts"
    click(browser, "td.asked button")
    assert "<img src=x" in browser.run("document.querySelector('.card .text').textContent")
    assert browser.run("document.title") != "ran"
    assert browser.run("document.images.length + document.querySelectorAll('#rows script').length") == 0
    assert browser.problems == []


def test_a_column_sorts_both_ways_and_no_value_comes_last(
    browser: Chromium, prompts_page: Path, prompt_set: Path
) -> None:
    browser.open(prompts_page)
    columns = (ScoredSet(prompt_set).column(name).to_pylist() for name in ("gc_id", "gc_nll"))
    nll = dict(zip(*columns, strict=True))
    falling = sorted((i for i in nll if nll[i] is not None), key=lambda i: -nll[i])
    missing = [i for i in nll if nll[i] is None]
    assert head(browser, "gc_nll") == "descending"
    assert copied_ids(browser) == falling + missing
    assert head(browser, "gc_nll") == "ascending"
    assert copied_ids(browser) == falling[::-1] + missing
    assert [text[:8] for text in falling[::-1][:25]] == browser.run(SHOWN)


def test_pages_turn(browser: Chromium, prompts_page: Path) -> None:
    browser.open(prompts_page, prefers_reduced_motion="reduce")
    first, number = browser.run(SHOWN), "document.getElementById('page').textContent"
    click(browser, "#after")
    click(browser, "#after")
    assert (browser.run(number), len(browser.run(SHOWN))) == ("Page 3 of 3", 10)
    assert browser.run("document.getElementById('after').disabled") is True
    write(browser, "#find", "What")
    assert browser.run(SHOWN) != first  # without the hostile prompt
    assert browser.run(number) == "Page 1 of 3"


def test_the_options_that_are_copied_choose_what_is_shown(
    browser: Chromium, prompts_page: Path, prompt_set: Path
) -> None:
    browser.open(prompts_page)
    write(browser, f'[aria-label="{RATE}, at least"]', "0.25")
    write(browser, f'[aria-label="{RATE}, at most"]', "0.75")
    write(browser, '[aria-label="gc_nll, at most"]', "2.5")
    shown = copied_ids(browser)
    assert 3 < len(shown) < 50
    assert copied_rows(browser, prompt_set) == set(shown)
    for place in range(4):  # each source, with its quotes, and no source
        write(browser, "#filter-list select", str(place))
        chosen = copied_ids(browser) if "0 of" not in browser.run(COUNT)[:4] else []
        if chosen:
            assert set(chosen) < set(shown)
            assert copied_rows(browser, prompt_set) == set(chosen)
    click(browser, "#clear")
    assert browser.run(COUNT) == "60 of 60 prompts"


def test_a_search_is_copied_as_its_ids(browser: Chromium, prompts_page: Path, prompt_set: Path) -> None:
    browser.open(prompts_page)
    write(browser, "#find", "IS 1")  # what is 1, 10, 11, ...
    assert browser.run(COUNT) == "11 of 60 prompts"
    assert copied_rows(browser, prompt_set) == set(copied_ids(browser))


def test_a_point_of_the_map_shows_its_prompt(browser: Chromium, prompts_page: Path) -> None:
    browser.open(prompts_page)
    browser.run(
        """(() => { const plane = document.getElementById('plane'), box = plane.getBoundingClientRect();
        for (let x = 0; x < box.width; x += 6) for (let y = 0; y < box.height; y += 6) {
          plane.dispatchEvent(new MouseEvent('click', {clientX: box.left + x, clientY: box.top + y}));
          if (document.querySelector('#picked .card')) return; } })()"""
    )
    assert browser.run("document.querySelector('#picked .text').textContent").startswith("What is")
    for choice in range(browser.run("document.getElementById('colour').options.length")):
        write(browser, "#colour", str(choice))
        assert browser.run("document.getElementById('legend').textContent") != ""
    assert browser.problems == []

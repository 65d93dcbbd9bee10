"""The page of every prompt: its data are exact, its texts are inert, its map is a principal component analysis."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prompt_pages
from column_sets import column_set, ids
from command import run
from gaincurate.core.scored_set import ScoredSet
from gaincurate.report import explore
from gaincurate.report.parts import shown
from gaincurate.report.table import read_table
from html_reader import Reader
from server_rollouts import write_set


@pytest.fixture(scope="module")
def page(prompt_set: Path, pass_rates: Path) -> str:
    return prompt_pages.page(prompt_set, pass_rates)


@pytest.fixture(scope="module")
def data(page: str) -> Any:
    return prompt_pages.data(page)


def test_no_text_ends_the_element_that_it_stands_in(page: str) -> None:
    read = Reader(page)
    assert read.open == []
    assert len(read.all("script")) == 2
    assert not read.tags().keys() & {"img", "iframe"}
    inside = page.split('id="data">')[1].split("</script>")[0]
    assert not re.search("[<>&\u2028\u2029\u202e]", inside)
    assert "http://" not in page
    assert "https://" not in page


def test_the_policy_lets_this_script_run_and_no_other(page: str) -> None:
    script = page.rsplit("<script>", 1)[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for a in Reader(page).all("meta") if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert re.findall("script-src[^;]*", policy) == [f"script-src 'sha256-{digest}'"]


def test_the_data_are_those_of_the_set(data: Any, prompt_set: Path) -> None:
    table = ScoredSet(prompt_set).to_table()
    assert data["ids"] == table["gc_id"].to_pylist()
    assert data["answers"][4] == "8"
    assert data["prompts"][3] == shown(prompt_pages.HOSTILE)
    columns = {column["name"]: column for column in data["numbers"]}
    for name in ("gc_angle", "gc_nll", "gc_question_tokens", "level"):
        values = table[name].to_numpy(zero_copy_only=False).astype(float)
        np.testing.assert_array_equal(prompt_pages.numbers(columns[name]), values)
    observed = prompt_pages.numbers(columns["pass rate (it's rates.jsonl)"])
    np.testing.assert_array_equal(observed[:50], np.arange(50) % 9 / 8)
    assert np.isnan(observed[50:]).all()
    (groups,) = data["groups"]
    codes = np.frombuffer(base64.b64decode(groups["codes"]), "<i4")
    named = [groups["names"][code] for code in codes]
    assert named == [source or "(none)" for source in table["source"].to_pylist()]


def test_a_number_that_no_float32_holds_stays_exact() -> None:
    values = np.array([0.1, np.nan, 2.0**40 + 1])
    np.testing.assert_array_equal(prompt_pages.numbers(explore._numbers(values)), values)


def test_the_map_is_the_plane_of_the_largest_variance(data: Any, prompt_set: Path) -> None:
    embeddings = np.array(ScoredSet(prompt_set).column("gc_embedding").to_pylist(), float)
    centred = embeddings - embeddings.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    for axis, name in enumerate("xy"):
        drawn = np.frombuffer(base64.b64decode(data["map"][name]), "<f4").astype(float)
        expected = left[:, axis] * sizes[axis]
        np.testing.assert_allclose(drawn, expected * np.sign(drawn[0] * expected[0]), atol=1e-4)
        assert data["map"]["shares"][axis] == pytest.approx(sizes[axis] ** 2 / (sizes**2).sum(), rel=1e-5)


def test_a_set_without_embeddings_has_a_table_and_says_what_makes_a_map(tmp_path: Path) -> None:
    few = column_set(tmp_path / "scored", [4, 5, 6], {"gc_angle": [0.1, 0.2, 0.3]})
    text = prompt_pages.page(few)
    assert prompt_pages.data(text)["map"] is None
    assert "gaincurate score --signals angle,embedding" in Reader(text).text


def test_a_large_set_is_sampled_by_its_ids_alone(tmp_path: Path) -> None:
    names = ids(200)
    chosen = []
    for order, shards in ((names, 2), (names[::-1], 5)):
        scores = {"gc_angle": np.zeros(200)}
        folder = column_set(tmp_path / str(shards), np.full(200, 4), scores, names=order, shards=shards)
        chosen.append({order[place] for place in explore.sample(ScoredSet(folder), 20)})
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 20
    assert chosen[0] != set(names[:20])


def test_a_sample_says_so_and_keeps_rows_together(prompt_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "sample", lambda scored: np.array([2, 3, 31, 59]))
    text = prompt_pages.page(prompt_set)
    data, scored = prompt_pages.data(text), ScoredSet(prompt_set)
    assert "This page has 4 of 60 prompts" in Reader(text).text
    for place, gc_id in enumerate(data["ids"]):
        row = scored.row(gc_id)
        assert data["answers"][place][:2] == row["answer"][:2]
        angle = next(column for column in data["numbers"] if column["name"] == "gc_angle")
        assert prompt_pages.numbers(angle)[place] == row["gc_angle"]


def test_long_texts_are_cut_where_they_are_many(prompt_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "_CHARACTERS", 10_000)
    monkeypatch.setattr(explore, "_LONGEST", (5000, 100, 10))
    text = prompt_pages.page(prompt_set)
    assert max(map(len, prompt_pages.data(text)["prompts"][:3])) == 100
    assert "Texts are cut after 100 characters." in Reader(text).text


def test_a_set_of_one_row_has_a_page(tmp_path: Path) -> None:
    scored = ScoredSet(column_set(tmp_path / "scored", [4], {"gc_angle": [0.1]}, shards=1))
    assert prompt_pages.data(explore.to_html(scored, read_table(scored)))["rows"] == 1


def test_the_command_writes_and_links_both_pages(prompt_set: Path, pass_rates: Path, tmp_path: Path) -> None:
    asked = ("report", prompt_set, "-o", tmp_path / "my report.html", "--explore", "--rollouts")
    done = run(*asked, pass_rates)
    assert done.exit_code == 0, done.output
    beside = tmp_path / "my report-prompts.html"
    assert str(beside) in done.stderr
    assert {"href": "my%20report-prompts.html"} in Reader((tmp_path / "my report.html").read_text()).all("a")
    assert {"href": "my%20report.html"} in Reader(beside.read_text()).all("a")
    rolled = write_set(tmp_path / "rolled", [{gc_id: [("a", 0.6), ("b", 0.2)] for gc_id in ids(9)}])
    for more, named in (((), {str(rolled)}), (("--success", 0.5), set())):  # which `export` does not have
        assert run(*asked, rolled, *more).exit_code == 0
        numbers = prompt_pages.data(beside.read_text())["numbers"]
        assert {column["rollouts"] for column in numbers} == {None, *named}


def test_the_command_needs_a_report_to_write_beside(prompt_set: Path, tmp_path: Path) -> None:
    done = run("report", prompt_set, "--explore")
    assert done.exit_code == 2
    assert "name that one, -o report.html" in " ".join(done.stderr.split())
    (tmp_path / "report-prompts.html").write_text("mine")
    assert run("report", prompt_set, "--explore", "-o", tmp_path / "report.html").exit_code != 0
    assert (tmp_path / "report-prompts.html").read_text() == "mine"

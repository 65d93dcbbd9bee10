from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from column_sets import column_set
from command import run


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    lengths = random.integers(5, 90, 60)
    questions = [f"question {row // 2}? </script><script>alert({row // 2})</script>" for row in range(60)]
    return column_set(tmp_path / "scored", lengths, {"gc_angle": 1 / lengths}, questions=questions)


def test_the_page_is_written_whole_and_the_summary_printed(scored: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = run("report", scored, "-o", page)
    assert done.exit_code == 0, done.output
    assert f"{page}: written; open it in a browser." in done.stderr
    assert "gc_angle" in done.stdout
    text = page.read_text()
    assert text.endswith("</html>")
    assert "<script" not in text
    assert "&lt;/script&gt;&lt;script&gt;alert(" in text
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_without_the_extra_or_address_space_it_says_so_before_it_works(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("report", scored / "not there", "-o", tmp_path / "report.html")
    monkeypatch.setattr("resource.getrlimit", lambda what: (79 << 30, resource.RLIM_INFINITY))
    space = "80 GiB of address space, of which the drawing library reserves 64, and the limit of this process is 79"
    assert run(*command).stderr == f"error: --output needs {space} (`ulimit -v`).\n"
    monkeypatch.setattr("gaincurate.cli.report.find_spec", lambda name: None)
    done = run(*command)
    sentence = "error: --output needs jinja2 and vl_convert: `pip install 'gaincurate[report]'`.\n"
    assert (done.exit_code, done.stderr) == (2, sentence)
    assert run("report", scored).exit_code == 0


def test_a_file_that_is_no_report_is_not_written_over_and_a_report_is(scored: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("{}\n")
    done = run("report", scored, "-o", prompts)
    assert done.exit_code == 2
    assert done.stderr.startswith(
        f"error: --output {prompts} exists and is not a report of gaincurate, so it is"
    )
    assert prompts.read_text() == "{}\n"
    page = tmp_path / "report.html"
    assert [run("report", scored, "-o", page).exit_code for _ in range(2)] == [0, 0]


def test_a_place_where_no_page_can_lie_is_refused_before_the_work(scored: Path, tmp_path: Path) -> None:
    done = run("report", scored, "-o", tmp_path)
    assert done.exit_code == 2
    assert done.stderr == f"error: --output {tmp_path} is a folder: name a file, such as report.html.\n"
    missing = tmp_path / "no" / "report.html"
    done = run("report", scored, "-o", missing)
    assert done.exit_code == 2
    said = f"error: --output {missing} lies in {missing.parent}, which is no folder: name a file"
    assert done.stderr.startswith(said)

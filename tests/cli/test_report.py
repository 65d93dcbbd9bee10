from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import runs
from column_sets import column_set, rates_file
from command import run
from gaincurate.report.build import report
from gaincurate.report.document import from_json, to_json

SCRIPT = "<script>alert(1)</script> \x1b[31mred"


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Length and nothing else, under two names; a source whose name would steer a terminal."""
    random = np.random.default_rng(0)
    length = random.integers(5, 300, 400)
    source = {"task": pa.array([SCRIPT, "plain"] * 200)}
    scores = {"gc_angle": -np.log(length) + 0.01 * random.normal(size=400), "gc_nll": random.normal(size=400)}
    return column_set(tmp_path / "scored", length, scores, source, questions=[SCRIPT] * 3 + ["q"] * 397)


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    return rates_file(tmp_path / "rates.parquet", np.linspace(0, 1, 400))


def test_the_first_screen_says_whether_to_sort(scored: Path) -> None:
    done = run("report", scored)
    assert done.exit_code == 0, done.output
    first = " ".join(done.stdout.split())
    assert first.startswith("gc_angle is close to question length. Whether sorting by any of 2 signals helps")
    assert f"{scored}: 400 rows, some-model, float32 on cpu; " in first
    assert "The set has no column of answers for a verifier" in first
    assert "WARNING: gc_angle is close to question length: rank correlation -1.00" in first
    assert "[tells-length-only] gc_angle follows question length" in first
    assert "[no-outcomes-to-judge] gc_nll is not question length" in first
    assert "duplicates 398 99.5 % 2 groups, the largest of 397 rows; the very same text in 398 rows" in first
    assert f"gaincurate export {scored} --drop duplicates` leaves duplicates out" in first
    assert "\x1b" not in done.output
    assert all(len(line) <= 100 for line in done.stdout.splitlines()[:16])


def test_signals_with_one_verdict_share_a_line_unless_verbose(tmp_path: Path) -> None:
    length = np.arange(5, 405)
    scores = {name: -np.log(length) for name in ("gc_angle", "gc_nll", "gc_entropy")}
    scored = column_set(tmp_path / "scored", length, scores)
    short, verbose = (" ".join(run("report", scored, *more).stdout.split()) for more in ((), ("-v",)))
    assert short.count("[tells-length-only] ") == short.count("WARNING: ") == 1
    assert short.count("The same holds for gc_nll, gc_entropy.") == 2
    assert verbose.count("[tells-length-only] ") == verbose.count("WARNING: ") == 3


def test_json_is_the_document(scored: Path, rates: Path) -> None:
    done = run("report", scored, "--rollouts", rates, "--json")
    assert done.exit_code == 0
    assert done.stderr == ""
    document = report(scored, rollouts=[rates])
    assert from_json(json.loads(done.stdout)) == document
    assert json.loads(done.stdout) == to_json(document)


def test_everything_that_was_given_is_shown(scored: Path, rates: Path, tmp_path: Path) -> None:
    begun = runs.begin(tmp_path, scored=scored, strategy="uniform")
    runs.report(begun)
    arguments = ["--rollouts", rates, "--run", begun.folder, "--group-column", "task"]
    done = run("report", scored, *arguments, "-v")
    assert done.exit_code == 0, done.output
    assert "rank correlation with pass rate" not in run("report", scored, *arguments).stdout
    lines = " ".join(done.stdout.split())
    assert "rank correlation with pass rate (rates.parquet)" in lines
    assert "rank correlation with p(1-p) (run)" in lines
    assert "pass rate (rates.parquet) 400 3,200 0." in lines
    assert f"{begun.folder}: uniform, 1 of 3 rounds, 8 prompts each" in lines
    assert "groups: task (named by --group-column)" in lines


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rollouts", "nowhere"], "error: --rollouts nowhere does not exist."),
        (["--rollouts", __file__], f"error: {__file__}: expected .jsonl, .parquet or .arrow"),
        (["--group-column", "quesion"], "it has question, task; similar: question"),
    ],
)
def test_bad_input_is_a_sentence(scored: Path, arguments: list[str], sentence: str) -> None:
    done = run("report", scored, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_the_page_is_written_whole_and_the_summary_printed(scored: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = run("report", scored, "-o", page)
    assert done.exit_code == 0, done.output
    assert f"{page}: written; open it in a browser." in done.stderr
    assert "gc_angle" in done.stdout
    text = page.read_text()
    assert text.endswith("</html>")
    assert "<script" not in text
    assert "&lt;script&gt;alert(" in text
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


def test_a_place_where_no_page_can_lie_is_refused_before_the_work(scored: Path, tmp_path: Path) -> None:
    prompts, missing = tmp_path / "prompts.jsonl", tmp_path / "no" / "report.html"
    prompts.write_text("{}\n")
    for place, sentence in {
        prompts: "exists and is not a report of gaincurate, so it is not overwritten.",
        tmp_path: "is a folder: name a file, such as report.html.\n",
        missing: f"lies in {missing.parent}, which is no folder: name a file",
    }.items():
        done = run("report", scored, "-o", place)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"error: --output {place} {sentence}")
    assert prompts.read_text() == "{}\n"
    page = tmp_path / "report.html"
    assert [run("report", scored, "-o", page).exit_code for _ in range(2)] == [0, 0], "a report is"

"""What a person sees at the width of a terminal: tables, ids, the list of what is there, an answer at once."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runs
import sets
import tiny
from command import run
from gaincurate.cli import output
from gaincurate.core.artifact import EXECUTION, IDENTITY, Artifact
from gaincurate.core.files import append_lines, write_json
from gaincurate.core.scored_set import open_scores
from gaincurate.difficulty.prompts import Completion
from gaincurate.difficulty.rollout_set import ROLLOUTS, write_shard

WORD = st.text("abc_0", min_size=1, max_size=12)
HEAD = st.lists(WORD, min_size=1, max_size=3).map(" ".join)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(data=st.data(), columns=st.integers(30, 200))
def test_a_table_fits_the_terminal_and_breaks_no_word(data: Any, columns: int) -> None:
    head = data.draw(st.lists(HEAD, min_size=1, max_size=8))
    rows = data.draw(st.lists(st.tuples(*(WORD for _ in head)), max_size=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setattr(sys, "stdout", screen := Terminal())
        output.table(rows, head)
        output.fitted(f"  {' '.join(head)}")
        printed = screen.getvalue()
    # Two columns of 12 each always fit into 30, and the first one stands in each part.
    assert all(len(line) <= columns for line in printed.splitlines())
    words = printed.split()
    for cell in [word for name in head[1:] for word in name.split()] + [c for row in rows for c in row[1:]]:
        assert cell in words


def test_json_has_null_where_a_number_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    output.as_json({"a": [math.nan, 0.1, -math.inf], "b": {"NaN": math.inf}, "c": ("Infinity", 2**70)})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"a": [None, 0.1, None], "b": {"NaN": None}, "c": ["Infinity", 2**70]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of two rows, one that was only begun, and rollouts of the set."""
    rows = [sets.scored_row(f"id{i}", f"What is {i}?", 0.5 + i / 10, 5) for i in range(3)]
    scored = sets.make_set(tmp_path / "sets" / "scored", [rows])
    (tmp_path / "begun").mkdir()
    write_json(tmp_path / "begun" / IDENTITY, {**json.loads((scored / IDENTITY).read_text())})
    identity = {"format": 1, "kind": "rollouts", "engine": {"model": {"name": "tiny"}}}
    identity["source"] = {"manifest": open_scores(scored).manifest_hash, "rows": 3}
    rollouts = tmp_path / "rollouts"
    rollouts.mkdir()
    write_json(rollouts / IDENTITY, identity)

    rewards: dict[str, list[float | None]] = {"id0": [0, 0, None], "id1": [1, 0, 0], "id2": [1, 1, 1]}
    parts = [
        (Completion(gc_id, k, f"says {gc_id} {k}", "stop", 3, 5), reward, "why" if reward is None else None)
        for gc_id, each in rewards.items()
        for k, reward in enumerate(each)
    ]
    write_shard(rollouts, 0, identity, parts, [])
    Artifact(rollouts, ROLLOUTS).finish(identity, 1)
    append_lines(rollouts / EXECUTION, [{"scored": str(scored)}])
    return tmp_path


def test_which_questions_score_higher_is_said_where_length_explains_something() -> None:
    assert output.length_sentence(-0.8).endswith("ordering by length (shorter questions score higher).")
    assert output.length_sentence(0.2).endswith("a part of the order (longer questions score higher).")
    assert output.length_sentence(0.19).endswith("length explains next to nothing of the order.")


@given(text=st.text(), width=st.integers(1, 60))
def test_an_excerpt_fits_and_is_at_least_half_of_the_width(text: str, width: int) -> None:
    line = " ".join(output.plain(text).split())
    short = output.excerpt(text, width)
    assert len(short) <= width
    assert short == line or line.startswith(short.removesuffix("…").rstrip())
    assert len(short) >= min(len(line), width // 2)


def test_ls_lists_sets_rollouts_and_runs_a_line_each(folder: Path) -> None:
    runs.begin(folder, scored=folder / "sets" / "scored", strategy="uniform", budget=2, rounds=4)
    listed = {Path(each.pop("folder")).name: each for each in json.loads(run("ls", folder, "--json").stdout)}
    assert {name: tuple(entry.values()) for name, entry in listed.items()} == {
        "begun": ("scored set", None, "some-model", "not finished, 0 shards"),
        "rollouts": ("rollout set", 9, "tiny", "finished"),
        "run": ("run, uniform", 3, "the-model", "round 0 of 4 is planned"),
        "set": ("scored set", 60, "some-model", "finished"),
        "scored": ("scored set", 3, "some-model", "finished"),
    }
    assert list(listed["run"]) == ["kind", "rows", "model", "state"]
    assert len(run("ls", folder).stdout.splitlines()) == 6
    assert run("ls", folder / "nowhere").exit_code == 2


def test_ls_passes_over_a_folder_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("locked", "unsearchable"):
        (folder / name).mkdir()
    listing, look = Path.iterdir, Path.exists

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    def exists(path: Path) -> bool:
        if path.parent.name == "unsearchable":
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    before = run("ls", folder).stdout
    monkeypatch.setattr(Path, "iterdir", iterdir)  # root, who runs tests in containers, may read anything
    monkeypatch.setattr(Path, "exists", exists)
    listed = run("ls", folder)
    assert (listed.exit_code, listed.stdout) == (0, before)
    refused = run("ls", folder / "locked")
    assert refused.exit_code == 1
    assert f"error: cannot read {folder / 'locked'}: permission is denied." in refused.stderr


def test_show_has_completions_with_rewards_worst_and_best_prompts_first(folder: Path) -> None:
    facts = json.loads(run("show", folder / "rollouts", "--rows", 1, "--json").stdout)
    (worst,), (best,) = facts["worst"], facts["best"]
    assert (worst["gc_id"], worst["question"], worst["mean_reward"]) == ("id0", "What is 0?", 0.0)
    assert [row["reward"] for row in worst["completions"]] == [0, 0, None]
    assert (best["gc_id"], best["mean_reward"]) == ("id2", 1.0)
    assert (facts["rollouts"], facts["unjudged"], facts["differ"]) == (9, 1, 1)
    printed = run("show", folder / "rollouts").stdout
    assert "id1  0.333  What is 1?\n    0: says id1 1\n    1: says id1 0\n" in printed
    # Another set at that place, with the same ids.
    shutil.rmtree(folder / "sets")
    sets.make_set(folder / "sets" / "scored", [[sets.scored_row(f"id{i}", "Why?", 0.5, 5) for i in range(3)]])
    printed = run("show", folder / "rollouts").stdout
    assert printed.count("id1  0.333") == 1  # of three prompts none is shown twice
    assert "Why?" not in printed


def test_quiet_says_nothing(tmp_path: Path, tiny_model: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(6))
    quiet = run("score", data, "-m", tiny_model, "-o", tmp_path / "quiet", "-q")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")


def test_a_misspelt_choice_or_column_has_its_near_names_said(folder: Path) -> None:
    scored = folder / "sets" / "scored"
    options = ("--run", folder / "run", "--strategy", "gain-lr", "--budget", 1, "--rounds", 1)
    assert "gain-rl" in run("schedule", "start", scored, *options).stderr
    derived = run("derive", scored, "--signal", "gc_anlge", "--length-free", "rank-in-bin")
    assert "similar: gc_angle" in derived.stderr

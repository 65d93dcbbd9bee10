from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sets
from command import run, tree
from gaincurate.core.files import append_lines
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty import rollout_set
from gaincurate.difficulty.config import RejudgeConfig
from gaincurate.difficulty.rollout import Agreement, rejudge
from gaincurate.difficulty.rollout_set import RolloutSet, write_table
from gaincurate.errors import GaincurateError
from server_rollouts import write_set

GOLDS = {"a": "7", "b": "7", "c": "8", "d": "9"}
# id: completion, the old reward
COMPLETIONS: dict[str, list[tuple[str, float | None]]] = {
    "a": [("<answer>7</answer>", 1.0), ("<answer>7.0</answer>", 0.0), ("<answer>6</answer>", 0.0)],
    "b": [("<answer>7</answer>", None), ("<answer>5</answer>", 1.0), ("<think>7", 0.0)],
    # Three agree on 12, and the gold is 8.
    "c": [(r"\boxed{12}", 0.0), ("<answer>12.0</answer>", 0.0), ("so #### 12", 0.0), ("<answer>8</answer>", 1.0)],
    # Two of four are not most of them.
    "d": [(r"\boxed{1}", 0.0), ("<answer>1</answer>", 0.0), (r"\boxed{2}", 0.0), (r"\boxed{3}", 0.0)],
}  # fmt: skip


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    rows = [sets.scored_row(gc_id, f"question {gc_id}") | {"answer": gold} for gc_id, gold in GOLDS.items()]
    scored = ScoredSet(sets.make_set(tmp_path / "scored", [rows], answer="answer"))
    source = {"manifest": scored.manifest_hash, "rows": 4, "reference": None, "answer_column": "answer"}
    shards = [{gc_id: COMPLETIONS[gc_id] for gc_id in ids} for ids in ("ab", "cd")]
    rejected, verifier = {"gc_id": "z", "reason": "no gold"}, {"name": "exact"}
    folder = write_set(tmp_path / "rollouts", shards, rejected, source=source, verifier=verifier)
    append_lines(folder / "execution.jsonl", [{"scored": str(tmp_path / "scored")}])
    return folder


def rewards(folder: Path) -> list[float | None]:
    return [reward for table in RolloutSet(folder).tables() for reward in table.column("reward").to_pylist()]


def test_a_new_set_has_the_same_completions_and_the_verdicts_of_the_new_verifier(
    rollouts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("math_verify")
    before = tree(rollouts)
    result = rejudge(RejudgeConfig(rollouts=rollouts, out=tmp_path / "new", verifier="math"))
    assert tree(rollouts) == before
    assert rewards(tmp_path / "new") == [1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    new, old = RolloutSet(tmp_path / "new"), RolloutSet(rollouts)
    for mine, theirs in zip(new.tables(), old.tables(), strict=True):
        assert mine.drop_columns(["reward", "reason"]) == theirs.drop_columns(["reward", "reason"])
    identity = new.manifest["identity"]
    assert identity["verifier"]["name"] == "math"
    assert identity["rejudged"]["verifier"] == {"name": "exact"}
    assert (tmp_path / "new/rejected.jsonl").read_bytes() == (rollouts / "rejected.jsonl").read_bytes()
    assert result.counts == {
        "right": {"right": 2, "wrong": 1},
        "wrong": {"right": 1, "wrong": 9},
        "not judged": {"right": 1},
    }
    assert result.disagreements == 3
    assert result.false_negatives == (1, 3), "of those that both verifiers judged"
    assert result.false_positives == (1, 10)
    assert result.agreements == [Agreement("c", "12", "8", 3, 4)]


def test_an_interrupted_run_goes_on_with_the_next_shard(
    rollouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RejudgeConfig(rollouts=rollouts, out=tmp_path / "new", verifier="exact")
    written: list[int] = []

    def killed(out: Path, index: int, *rest: Any) -> None:
        written.append(index)
        if written == [0, 1]:
            raise KeyboardInterrupt
        write_table(out, index, *rest)

    monkeypatch.setattr(rollout_set, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        rejudge(config)
    result = rejudge(config)
    assert written == [0, 1, 1]
    whole = rejudge(config.model_copy(update={"out": tmp_path / "whole"}))
    assert whole.counts == result.counts
    for name in ("manifest.json", "shard-00000.arrow", "shard-00001.arrow"):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_command_prints_the_table_and_the_prompts_to_read(rollouts: Path) -> None:
    pytest.importorskip("math_verify")
    done = run("difficulty", "rejudge", rollouts, "--verifier", "math")
    assert done.exit_code == 0, done.output
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["right", "2", "1", "0"] in words
    assert ["wrong", "1", "9", "0"] in words
    assert "false negatives of exact: 33.3% (1 of 3 that are right now)" in done.stdout
    assert ["c", "3", "of", "4", "12", "8"] in words
    document = json.loads(run("difficulty", "rejudge", rollouts, "--verifier", "math", "--json").stdout)
    assert document["out"] == f"{rollouts}-math"
    assert document["false_negatives"] == {"count": 1, "of": 3, "rate": pytest.approx(1 / 3)}
    assert [each["gc_id"] for each in document["agreements"]] == ["c"]


def test_what_cannot_be_judged_again_is_refused(rollouts: Path, tmp_path: Path) -> None:
    other = sets.make_set(tmp_path / "other", [[sets.scored_row("a")]])
    (tmp_path / "scored").rename(tmp_path / "moved")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"out": rollouts}, "is the rollout set itself"),
        ({}, "with --scored"),
        ({"scored": other}, "their hashes differ"),
    ]
    for options, said in cases:
        with pytest.raises(GaincurateError, match=said):
            rejudge(RejudgeConfig(rollouts=rollouts, verifier="exact", **options))

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from command import run
from gaincurate.core.scored_set import open_scores
from gaincurate.difficulty.rollout_set import RolloutSet, pass_rates


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("difficulty")
    data = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(8))
    done = run("score", data, "--model", tiny_model, "--out", folder / "scored", "--threads", 1)
    assert done.exit_code == 0
    return folder / "scored"


def test_rollouts_by_a_model_of_this_machine(tmp_path: Path, tiny_model: Path, scored: Path) -> None:
    out = tmp_path / "rollouts"
    command = ["difficulty", "rollout", scored, "--out", out, "--model", tiny_model, "--verifier", "exact"]
    command += ["--samples", 3, "--reference", 4, "--max-tokens", 5, "--threads", 1, "--verify-workers", 1]
    assert run(*command, "--dry-run").stdout.splitlines()[1:] == [
        "  12 completions at most, of 5 tokens at most: 60 in all",
        "  nothing was written",
    ]
    assert not out.exists()
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    facts = json.loads(run(*command, "--dry-run", "--json").stdout)
    assert (facts["prompts"], facts["shards"], facts["shards_done"]) == (4, 1, 1)
    assert facts["prompt_tokens"] * 3 == sum(
        length for table in RolloutSet(out).tables() for length in table["prompt_tokens"].to_pylist()
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("generated 12 completions, ")
    assert second == f"{out} is complete: 12 rollouts of 4 prompts, mean reward 0.000, 0 prompts rejected"
    assert "shard 1 of 1: 4 of 4 prompts" in done.stderr
    assert "warning: no completion is right, and none has <answer>: is the verifier right" in done.stderr
    assert "none has <answer>" in " ".join(run("show", out).stdout.split())
    again = run(*command, "--json")
    assert again.exit_code == 0
    counts = {"generated": 0, "rollouts": 12, "pass_rate": 0.0, "other_lengths": 0}
    assert counts.items() <= json.loads(again.stdout).items()
    assert "4 of 4 prompts were done before and are kept" in again.stderr
    assert pass_rates(out).column("samples").to_pylist() == [3] * 4
    engine = RolloutSet(out).manifest["identity"]["engine"]
    scored_with = json.loads((scored / "manifest.json").read_text())["identity"]
    assert engine["model"] == scored_with["model"]
    assert engine["tokenizer"] == scored_with["tokenizer"]
    # The prompt that a completion was made from is, token for token in number, the one that was scored.
    for row in (row for table in RolloutSet(out).tables() for row in table.to_pylist()):
        assert open_scores(scored).row(row["gc_id"])["gc_prompt_tokens"] == row["prompt_tokens"]
    other = run(*command, "--seed", 3)
    assert other.exit_code == 2
    assert "sampling.seed was 0 and is now 3" in other.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--model m --server-body [1]", "--server-body '[1]': expected a JSON object, such"),
        ("--model m --temperature inf", "--temperature inf: it should be a finite number."),
        ("--server http://s --timeout nan", "--timeout nan: it should be a finite number."),
        ("--model m --temperature 0", "--temperature 0.0: it should be greater than 0."),
        ("--model no/such/model", "--model no/such/model does not exist."),
    ],
)
def test_bad_options_are_one_sentence(tmp_path: Path, scored: Path, options: str, sentence: str) -> None:
    out = tmp_path / "out"
    done = run("difficulty", "rollout", scored, "--out", out, "--verifier", "exact", *options.split())
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {sentence}")
    assert done.stderr.count("\n") == 1
    assert not out.exists()

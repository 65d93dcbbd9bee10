"""A real GRPO run of TRL on an exported round; its own completions tables become the round's outcomes."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import exports
from command import run as gaincurate
from gaincurate.trainers.export import export


def test_every_rollout_is_taken_once_though_it_is_logged_twice(tiny_model: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    import datasets

    import trl_run

    run = exports.begin(tmp_path, segmentation={"system": exports.SYSTEM})
    found = export(run.folder, "trl", tmp_path / "train.parquet")
    seen: list[tuple[str, float]] = []

    def reward(completions: Any, gc_id: list[str], log_extra: Any, **more: Any) -> list[float]:
        rewards = [len(completion[0]["content"]) % 2 / 1 for completion in completions]
        seen.extend(zip(gc_id, rewards, strict=True))
        log_extra("gc_id", gc_id)
        return rewards

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's and transformers' own
        # The lines that `export` prints are what is run here.
        scope: dict[str, Any] = {"datasets": datasets}
        exec(found.launch.settings[0], scope)
        options = eval(found.launch.settings[1].partition("GRPOConfig")[2].replace("(", "dict(", 1))
        # One generation is trained on for two steps, and logged twice.
        options |= {"per_device_train_batch_size": 4, "steps_per_generation": 2, "num_generations": 4}
        options |= {
            "log_completions": True,
            "num_completions_to_print": 0,
            "save_strategy": "no",
            "max_steps": 4,
        }
        arguments, rows = trl_run.config(tmp_path / "out", **options), scope["train_dataset"]
        trl.GRPOTrainer(str(tiny_model), reward, args=arguments, train_dataset=rows).train()
    completions, bare = tmp_path / "out/completions", tmp_path / "bare"
    files = sorted(completions.glob("*.parquet"))
    assert len(files) == 4
    assert sum(pq.read_metadata(file).num_rows for file in files) == 2 * len(seen) == 32
    assert set(pq.read_schema(files[0]).names) == {
        "step", "prompt", "completion", "reward", "gc_id", "advantage"
    }  # fmt: skip
    bare.mkdir()
    for file in files:
        pq.write_table(pq.read_table(file).drop_columns(["gc_id"]), bare / file.name)
    for place in (completions, bare / "completions_0000[0-9].parquet"):  # by the id, and by the messages
        run = exports.begin(tmp_path / f"run-{place.name}", segmentation={"system": exports.SYSTEM})
        result = gaincurate("schedule", "next", run.folder, "--outcomes", place)
        assert result.exit_code == 0, result.stderr
        assert "16 outcomes for round 0 from 16 rows" in result.stderr
        lines = [json.loads(line) for line in run.outcomes(0).read_text().splitlines()]
        assert Counter((line["gc_id"], line["reward"]) for line in lines) == Counter(seen)
        assert {line["gc_id"] for line in lines} == set(run.ids(0))
        accuracy = run.plan(1)["inputs"]["accuracy"]
        assert accuracy == pytest.approx(sum(reward for _, reward in seen) / len(seen))

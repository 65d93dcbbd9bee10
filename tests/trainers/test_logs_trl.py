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
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.rounds import start
from gaincurate.trainers.columns import ViewOptions
from gaincurate.trainers.export import Pick, export

Seen = list[tuple[str, float]]


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Seen]:
    """The scored set, TRL's tables, and the ids and rewards that the reward function saw."""
    trl = pytest.importorskip("trl")
    import datasets

    folder = tmp_path_factory.mktemp("trl")
    scored = exports.make_set(folder / "set", exports.sums(12), segmentation={"system": exports.SYSTEM})
    config = ScheduleConfig(scored=scored, run=folder / "run", strategy="uniform", budget=4, rounds=2, seed=3)
    start(config)
    found = export(folder / "run", "trl", folder / "train.parquet", ViewOptions(), Pick())
    seen: Seen = []

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
        settings = eval(found.launch.settings[1].partition("GRPOConfig")[2].replace("(", "dict(", 1))
        arguments = trl.GRPOConfig(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=1,
            steps_per_generation=2,  # one generation is trained on for two steps, and logged twice
            num_generations=4,
            max_steps=4,
            max_completion_length=6,
            logging_steps=1,
            log_completions=True,
            num_completions_to_print=0,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            beta=0.0,
            **settings,
        )
        trl.GRPOTrainer(
            model=str(tiny_model), reward_funcs=reward, args=arguments, train_dataset=scope["train_dataset"]
        ).train()
    return scored, folder / "out/completions", seen


def test_every_rollout_is_taken_once_though_it_is_logged_twice(trained: Any, tmp_path: Path) -> None:
    scored, completions, seen = trained
    files = sorted(completions.glob("*.parquet"))
    assert len(files) == 4
    assert sum(pq.read_metadata(file).num_rows for file in files) == 2 * len(seen) == 32
    assert set(pq.read_schema(files[0]).names) == {
        "step", "prompt", "completion", "reward", "gc_id", "advantage"
    }  # fmt: skip
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in files:
        pq.write_table(pq.read_table(file).drop_columns(["gc_id"]), bare / file.name)
    for place in (completions, bare / "completions_0000[0-9].parquet"):  # by the id, and by the messages
        config = ScheduleConfig(
            scored=scored, run=tmp_path / f"run-{place.name}", strategy="uniform", budget=4, rounds=2, seed=3
        )
        run = start(config)
        result = gaincurate("schedule", "next", run.folder, "--outcomes", place)
        assert result.exit_code == 0, result.stderr
        assert "16 outcomes for round 0 from 16 rows" in result.stderr
        lines = [json.loads(line) for line in run.outcomes(0).read_text().splitlines()]
        assert Counter((line["gc_id"], line["reward"]) for line in lines) == Counter(seen)
        assert {line["gc_id"] for line in lines} == set(run.ids(0))
        accuracy = run.plan(1)["inputs"]["accuracy"]
        assert accuracy == pytest.approx(sum(reward for _, reward in seen) / len(seen))

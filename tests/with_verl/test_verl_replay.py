"""Rollout replay through verl's own `fit`, TransferQueue, replay buffer, checkpoints and advantages."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl.trainer.ppo.checkpoint_callback", reason="needs verl 0.9.1: make test-verl")

from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback
from verl.utils.import_utils import load_extern_object

import verl_made as made
from gaincurate.errors import InputError, OutputError
from gaincurate.replay.config import ReplayConfig
from gaincurate.replay.state import NAME
from gaincurate.trainers.verl import replay
from gaincurate.trainers.verl.replay import GroupReplayBuffer, ReplayCheckpoint
from gaincurate.trainers.verl.replay_settings import replay_overrides
from verl_replays import rewards
from verl_trainer import settings

TRAINER = Path(__file__).parent.parent / "verl_replays.py"
SIZES = ReplayConfig(4, 2, 5, seed=3)
STEPS = 10


def around(work: Path, *more: str) -> list[str]:
    """Overrides for a data file of 12 prompts, of which each third is never informative."""
    made.files(work)
    return [
        *made.around(work),
        *replay_overrides(SIZES),
        f"data.train_files={made.files(work, 12, 'train')}",
        "data.shuffle=False",
        "data.dataloader_num_workers=0",
        "trainer.total_epochs=9",
        f"trainer.total_training_steps={STEPS}",
        "trainer.save_freq=3",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "algorithm.norm_adv_by_std_in_grpo=False",
        *more,
    ]


def fit(work: Path, *more: str, kill_at: int | None = None) -> list[dict[str, Any]]:
    """Train until the end, or until a kill; the steps that were trained, in all calls."""
    work.mkdir(exist_ok=True)
    command = [sys.executable, str(TRAINER), str(work), *around(work, *more)]
    environment = os.environ | {"KILL_AT": str(kill_at), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == (0 if kill_at is None else -signal.SIGKILL), (
        done.stdout[-2000:] + done.stderr[-4000:]
    )
    return [json.loads(line) for line in (work / "trained.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training without a stop, clip centred on 1."""
    work = tmp_path_factory.mktemp("whole")
    fit(work)
    return work


def steps_in(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "trained.jsonl").read_text().splitlines()]


Groups = dict[str, list[dict[str, Any]]]


def groups_in(step: dict[str, Any]) -> tuple[Groups, Groups]:
    """A step's rows by uid, fresh and replayed."""
    found: tuple[Groups, Groups] = ({}, {})
    for row in step["rows"]:
        uid = row["key"].split("_")[0]
        assert row["uid"] == uid
        found[uid.startswith("replay")].setdefault(uid, []).append(row)
    return found


def index_of(rows: list[dict[str, Any]]) -> int:
    (found,) = {row["extra_info"]["index"] for row in rows}
    return int(found)


def held_before(steps: list[dict[str, Any]]) -> list[int]:
    """How many groups a buffer of five held before each step, counted from the rows alone."""
    found, held = [], 0
    for step in steps:
        found.append(held)
        fresh, _ = groups_in(step)
        held = min(5, held + sum(len({*rewards(index_of(rows), 2)}) > 1 for rows in fresh.values()))
    return found


def test_every_batch_is_whole_and_generation_falls_where_it_replays(whole: Path) -> None:
    steps = steps_in(whole)
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    for step, held in zip(steps, held_before(steps), strict=True):
        fresh, replayed = groups_in(step)
        assert (len(fresh), len(replayed)) == ((2, 2) if held >= 2 else (4, 0))
        assert step["more"] == (0 if held >= 2 else 2)  # asked for behind the two that verl asks for itself
        assert all(len(rows) == 2 for rows in [*fresh.values(), *replayed.values()])
        assert step["metrics"]["replay/share"] == len(replayed) / 4
    assert not steps[0]["metrics"]["replay/replay_steps"]
    assert steps[-1]["metrics"]["replay/replay_steps"] >= 7
    assert json.loads((whole / "left").read_text()) == {}  # verl cleared the replayed rows too


def test_prompts_are_handed_out_once_each_and_in_order(whole: Path) -> None:
    order = [index_of(rows) for step in steps_in(whole) for rows in sorted_by_key(groups_in(step)[0], step)]
    passes = [sorted(order[first : first + 12]) for first in range(0, len(order) - 11, 12)]
    assert passes
    assert all(one == list(range(12)) for one in passes)


def sorted_by_key(fresh: Groups, step: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [fresh[uid] for uid in dict.fromkeys(row["uid"] for row in step["rows"]) if uid in fresh]


KEPT = [
    "prompts",
    "responses",
    "response_mask",
    "rm_scores",
    "rollout_log_probs",
    "input_ids",
    "position_ids",
]


def test_what_is_replayed_is_what_was_generated_then_with_its_log_probs(whole: Path) -> None:
    earlier: dict[tuple[int, int], list[dict[str, Any]]] = {}
    seen = 0
    for step in steps_in(whole):
        fresh, replayed = groups_in(step)
        drawn = set()
        for rows in replayed.values():
            made_at = rows[0]["tag"]["min_global_steps"] + 1
            was = earlier[index_of(rows), made_at]  # of an earlier step, so never a current rollout
            assert [[row[name] for name in KEPT] for row in rows] == [
                [row[name] for name in KEPT] for row in was
            ]
            assert [row["extra_info"] for row in rows] == [row["extra_info"] for row in was]
            assert len({sum(row["rm_scores"]) for row in rows}) > 1
            drawn.add((index_of(rows), made_at))
            seen += 1
        assert len(drawn) == len(replayed)  # without replacement
        for rows in fresh.values():
            earlier[index_of(rows), step["step"]] = rows
    assert seen >= 14


def test_verl_computes_the_advantages_of_replayed_groups_within_each_group(whole: Path) -> None:
    for step in steps_in(whole):
        for group in groups_in(step):
            for rows in group.values():
                scores = [sum(row["rm_scores"]) for row in rows]
                for row, score in zip(rows, scores, strict=True):
                    assert row["advantages"] == pytest.approx(
                        [score - sum(scores) / 2] * len(row["responses"])
                    )
                    assert row["old_log_probs"] == row["rollout_log_probs"]  # clip centred on 1


def without_chance(step: dict[str, Any]) -> Any:
    """A step's rows without uids of chance, in an order of their own."""
    rows = [
        [row[name] for name in [*KEPT, "extra_info", "advantages", "old_log_probs"]]
        + [row["uid"] if row["uid"].startswith("replay") else "fresh"]
        for row in step["rows"]
    ]
    return step["step"], sorted(rows, key=json.dumps), step["metrics"]


def test_killed_and_resumed_the_same_groups_are_replayed(whole: Path, tmp_path: Path) -> None:
    before = fit(tmp_path, kill_at=5)
    assert [step["step"] for step in before] == [1, 2, 3, 4, 5]
    after = fit(tmp_path)[5:]
    assert [step["step"] for step in after] == list(range(4, STEPS + 1))
    history = [*before[:3], *after]
    assert [without_chance(step) for step in history] == [without_chance(step) for step in steps_in(whole)]


def test_verl_weighs_replayed_tokens_by_pi_old_over_pi_behaviour(tmp_path: Path) -> None:
    more = ["algorithm.rollout_correction.bypass_mode=False", "algorithm.rollout_correction.rollout_is=token"]
    ages = set()
    for step in fit(tmp_path, *more, "trainer.total_training_steps=5", "trainer.save_freq=-1"):
        for row in step["rows"]:
            passed = step["step"] - 1 - row["tag"]["min_global_steps"]
            ages.add(passed)
            assert row["old_log_probs"] == pytest.approx([p - passed / 10 for p in row["rollout_log_probs"]])
            expected = [math.exp(-passed / 10)] * len(row["responses"])
            assert row["rollout_is_weights"] == pytest.approx(expected, rel=1e-5)
    assert {0, 1} < ages


# --- Without Ray.


@pytest.fixture
def nothing_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_resumed", None)


def buffer_of(config: Any) -> GroupReplayBuffer:
    place = config.trainer.v1.sampler
    assert load_extern_object(place.custom_sampler.path, place.custom_sampler.name) is GroupReplayBuffer
    return GroupReplayBuffer(
        trainer_mode="sync",
        trainer_config=config.trainer.v1.get("sync", {}),
        max_off_policy_threshold=place.max_off_policy_threshold,
        max_off_policy_strategy=place.max_off_policy_strategy,
        sampler_kwargs=place.sampler_kwargs,
        refill_fn=lambda count: count,
    )


@pytest.mark.usefixtures("nothing_resumed")
def test_every_override_is_a_setting_that_verl_has(tmp_path: Path) -> None:
    config = settings(around(tmp_path, "actor_rollout_ref.rollout.temperature=0.6"))
    assert type(build_checkpoint_callback(config)) is ReplayCheckpoint
    made = buffer_of(config)
    assert (made.replay.config, made._sampled) == (SIZES, {"temperature": 0.6, "top_p": 1.0})


@pytest.mark.usefixtures("nothing_resumed")
def test_settings_of_no_replay_are_refused_all_at_once(tmp_path: Path) -> None:
    wrong = ["data.train_batch_size=3", "algorithm.rollout_correction.bypass_mode=False"]
    with pytest.raises(InputError) as caught:
        build_checkpoint_callback(settings(around(tmp_path, *wrong)))
    said = str(caught.value).splitlines()
    assert len(said) == 3
    assert said[0].startswith("data.train_batch_size is 3: a step that replays generates 2 of 4 groups")
    assert said[2].startswith(
        "algorithm.rollout_correction.bypass_mode is false: replayed rollouts would be weighed as if the present "
    )


@pytest.mark.usefixtures("nothing_resumed")
def test_a_checkpoint_without_a_buffer_is_refused_unless_it_may_be_empty(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/global_step_3"
    folder.mkdir(parents=True)
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("3")
    config = settings(around(tmp_path))
    build_checkpoint_callback(config)
    with pytest.raises(OutputError, match=f"^{folder} has no {NAME}: it was saved by a trainer that did not"):
        buffer_of(config)
    more = settings(around(tmp_path, "+trainer.v1.sampler.sampler_kwargs.begin_empty=True"))
    assert len(buffer_of(more).replay) == 0

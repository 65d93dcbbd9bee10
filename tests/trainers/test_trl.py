"""Real GRPO runs of a tiny model that follow a run, in this process; two processes: test_trl_pair.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import trl
from typer.testing import CliRunner

import dots_runs
import gaincurate
import runs
import tiny
import trl_run
from adapters import forget
from gaincurate.cli.app import app
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import InputError, OutcomeError, OutputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.session import PLACE, RunSession
from gaincurate.trainers.trl.checks import places_of
from gaincurate.trainers.trl.live import attach, dataset
from trl_run import Ender, Ends

NOT_OF_THE_RUN = "of an evaluation"


class Unsloth(trl.GRPOTrainer):  # type: ignore[misc]
    """As the trainer that Unsloth writes: the model is in training mode when rewards are computed, always."""

    def _calculate_rewards(self, *args: Any) -> Any:
        before = self.model.training
        self.model.train()
        rewards = super()._calculate_rewards(*args)
        self.model.train(before)
        return rewards


def make(
    model: Path,
    run: Run,
    *,
    rows: Any = None,
    evaluate: bool = False,
    peft_config: Any = None,
    kind: Any = trl.GRPOTrainer,
    **options: Any,
) -> tuple[Any, list[str]]:
    """A trainer that follows the run, and the ids that its reward function sees."""
    seen: list[str] = []

    def reward(completions: list[Any], gc_id: list[str], **columns: Any) -> list[float]:
        if NOT_OF_THE_RUN not in gc_id:
            seen.extend(gc_id[::2])  # one of each group
        return trl_run.reward(completions, gc_id)

    more: dict[str, Any] = {"train_dataset": dataset(run.folder) if rows is None else rows}
    if peft_config is not None:
        more["peft_config"] = peft_config
    if evaluate:
        more["eval_dataset"] = datasets.Dataset.from_list(
            [{"prompt": [{"role": "user", "content": "why?"}], "gc_id": NOT_OF_THE_RUN}]
        )
    made_by = trl.RLOOConfig if kind is trl.RLOOTrainer else trl.GRPOConfig
    trainer = kind(
        model=str(model),
        reward_funcs=reward,
        args=trl_run.config(run.folder.parent / "out", made_by, **options),
        **more,
    )
    attach(trainer, run.folder)
    return trainer, seen


def planned(run: Run) -> list[str]:
    return [gc_id for round_ in range(run.config.rounds) for gc_id in run.ids(round_)]


@pytest.mark.parametrize("kind", [trl.GRPOTrainer, Unsloth, trl.RLOOTrainer])
def test_a_run_is_followed_to_its_end(tmp_path: Path, model: Path, kind: Any) -> None:
    run = runs.begin(tmp_path, budget=8, rounds=3, align_to=4)
    evaluation: dict[str, Any] = {
        "eval_strategy": "steps",
        "per_device_eval_batch_size": 2,
        "num_generations_eval": 1,
    }
    trainer, seen = make(model, run, kind=kind, num_train_epochs=3, evaluate=True, eval_steps=3, **evaluation)
    trainer.train()
    assert seen == planned(run)
    assert trainer.state.global_step == 6
    assert run.state["finished"]
    for round_ in range(3):
        lines = [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]
        assert [line["gc_id"] for line in lines] == [i for i in run.ids(round_) for _ in range(2)]
        assert [line["sample"] for line in lines] == [0, 1] * 8
        assert {line["step"] for line in lines} == {2 * round_ + 1, 2 * round_ + 2}
        assert all(line["tokens"] > 0 and line["round"] == round_ for line in lines)
    logged = [entry for entry in trainer.state.log_history if "gaincurate/mu" in entry]
    assert [entry["gaincurate/round"] for entry in logged] == [0, 0, 1, 1, 2, 2]
    assert logged[-1]["gaincurate/mu"] == pytest.approx(run.plan(2)["mu"])
    assert [entry["round"] for entry in run.executions() if entry["what"] == "training"] == [0, 1, 2]


def test_attach_plans_round_0(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dots_runs.in_process(monkeypatch)
    server = {"verifier": "exact", "answer_column": "question", "server": "http://127.0.0.1:9/v1"}
    scored = dots_runs.begin(tmp_path / "other").config.scored
    options = {**dots_runs.OPTIONS, "rollout": server}
    run = runs.begin(tmp_path, scored=scored, strategy="dots", options=options, rounds=1, align_to=4)
    dots_runs.answer(run, 0)  # so the server is not asked
    assert run.state["round"] == -1
    trainer, seen = make(model, run, num_train_epochs=1)
    assert run.state["round"] == 0
    assert not seen
    trainer.train()
    assert seen == planned(run)
    assert run.state["finished"]


@pytest.mark.slow
def test_a_generation_may_feed_several_steps_and_several_passes(tmp_path: Path, model: Path) -> None:
    """4 micro-batches of 2 rollouts make a generation, used twice; 2 of them make a step: windows of 4 steps."""
    run = runs.begin(tmp_path, budget=8, rounds=2, align_to=4)
    batch: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "steps_per_generation": 4,
        "gradient_accumulation_steps": 2,
    }
    trainer, seen = make(model, run, num_iterations=2, max_steps=16, save_steps=4, **batch)
    trainer.train()
    assert seen == planned(run)
    assert run.state["finished"]


@pytest.mark.parametrize(
    "end", [3, pytest.param(4, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_ended_anywhere_and_resumed_the_plans_are_the_same(tmp_path: Path, model: Path, end: int) -> None:
    """Ended in the middle of round 1 (2 steps a round, saved at each), at its end, and in round 2."""
    whole = runs.begin(tmp_path / "whole", rounds=3, align_to=4)
    trainer, _ = make(model, whole, max_steps=6)
    trainer.train()
    run = runs.begin(tmp_path / "cut", rounds=3, align_to=4)
    trainer, _ = make(model, run, max_steps=6)
    trainer.add_callback(Ender(end))
    with pytest.raises(Ends):
        trainer.train(resume_from_checkpoint=True)  # there is none: it begins anew
    forget()
    trainer, seen = make(model, run, max_steps=6)
    trainer.train(resume_from_checkpoint=True)
    assert seen == planned(run)[4 * (end - 1) :]
    assert runs.plans(run) == runs.plans(whole)
    assert run.state["finished"]


def test_resumed_from_an_older_checkpoint_later_rounds_are_set_aside(tmp_path: Path, model: Path) -> None:
    run = runs.begin(tmp_path, rounds=3, align_to=4)
    trainer, _ = make(model, run, num_train_epochs=3)
    trainer.train()
    before = runs.plans(run)
    trainer, seen = make(model, run, num_train_epochs=3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-1"))
    assert seen == planned(run)[4:]
    assert runs.plans(run) == before
    assert sorted(path.name for path in (run.folder / "undone").iterdir()) == ["00001-1", "00002-1"]


@pytest.mark.slow
def test_true_takes_the_newest_good(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = runs.begin(tmp_path, rounds=3, align_to=4)
    trainer, _ = make(model, run, num_train_epochs=3)
    trainer.train()
    out = tmp_path / "out"
    state = (out / "checkpoint-6/trainer_state.json").read_text()
    (out / "checkpoint-6/trainer_state.json").write_text(state[:100])  # killed while it was written
    place = read_sealed(out / "checkpoint-5" / PLACE)
    write_sealed(out / "checkpoint-5" / PLACE, place | {"plan": "0" * 64})
    (out / "checkpoint-4/trainer_state.json").write_text(state)
    (out / "checkpoint-notes").mkdir()
    trainer, seen = make(model, run, num_train_epochs=3)
    trainer.train(resume_from_checkpoint=True)
    assert seen == planned(run)[12:]
    said = [record.getMessage() for record in caplog.records if record.name == "gaincurate"]
    whys = [text.partition(": ")[2].partition(".")[0] for text in said if text.startswith("cannot resume")]
    undone = "checkpoint-5 is of a history that was undone: round 2 was planned again since"
    assert [Path(why).name for why in whys] == ["trainer_state", undone, "trainer_state"]


@pytest.mark.slow
def test_one_without_a_place_may_do(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.begin(tmp_path, rounds=3, align_to=4)
    trainer, _ = make(model, run, num_train_epochs=3)
    real = RunSession.save_beside

    def save(live: RunSession, checkpoint: Path, step: int, **more: Any) -> None:
        if step == 3:
            raise Ends
        real(live, checkpoint, step, **more)

    with monkeypatch.context() as patch:
        patch.setattr(RunSession, "save_beside", save)
        with pytest.raises(Ends):
            trainer.train()
    forget()
    out = tmp_path / "out"
    assert not (out / "checkpoint-3" / PLACE).exists()
    trainer, seen = make(model, run, num_train_epochs=3)
    trainer.train(resume_from_checkpoint=True)
    assert seen == planned(run)[12:]
    assert run.state["finished"]
    (out / "checkpoint-1" / PLACE).unlink()
    trainer, _ = make(model, run, num_train_epochs=3)
    with pytest.raises(OutputError, match=r"checkpoint-1: it has no gaincurate_state\.json, and .* is in"):
        trainer.train(resume_from_checkpoint=str(out / "checkpoint-1"))


def test_a_reward_outside_the_runs_range_ends_the_first_step(tmp_path: Path, model: Path) -> None:
    run = runs.begin(tmp_path, rounds=2, align_to=4)

    def doubled(completions: list[Any], **columns: Any) -> list[float]:
        return [2.0 for _ in completions]

    args = trl_run.config(tmp_path / "out", num_train_epochs=2)
    rows = dataset(run.folder)
    made = trl.GRPOTrainer(model=str(model), reward_funcs=doubled, args=args, train_dataset=rows)
    attach(made, run.folder)
    with pytest.raises(OutcomeError, match="reward 2 of .* Open another run over the same scores") as caught:
        made.train()
    assert f"scored='{tmp_path / 'set'}', reward_low=LO, reward_high=HI" in str(caught.value)
    assert not run.outcomes(0).exists()


@pytest.mark.slow
def test_going_back_restores_the_order(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the place and the plan of a round that is due, too: the checkpoint is scored then."""
    data = tiny.write_jsonl(tmp_path / "prompts.jsonl", tiny.questions(24))
    gaincurate.score(str(data), model=str(model), out=tmp_path / "set", dtype="float32")
    rescore = {"what": "full", "every": 1, "probe": 0}
    run = runs.begin(tmp_path, rounds=3, align_to=4, model=str(model), rescore=rescore)
    scored: list[str] = []

    def score(command: list[str], log: Path, **options: Any) -> float:
        made = CliRunner().invoke(app, [*command[3:], "--batch-tokens", "2048"])
        assert made.exit_code == 0, made.output
        scored.append(command[command.index("--out") + 1])
        return 0.1

    monkeypatch.setattr("gaincurate.schedule.rescore.run_command", score)
    first = run.state["order"]
    trainer, _ = make(model, run, num_train_epochs=3)
    real, dying = RunSession.turn, iter([False, True])

    def turn(live: RunSession, *args: Any) -> bool:
        if next(dying):
            raise Ends
        return real(live, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RunSession, "turn", turn)
        with pytest.raises(Ends):
            trainer.train()
    assert (run.state["round"], len(scored)) == (1, 1)
    forget()
    trainer, seen = make(model, run, num_train_epochs=3)
    trainer.train(resume_from_checkpoint=True)
    assert seen == planned(run)[16:]
    assert len(scored) == 2
    before = runs.plans(run)
    assert len({json.loads(plan)["order"]["digest"] for plan in before}) == 3
    forget()
    trainer, seen = make(model, run, num_train_epochs=3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-1"))
    assert runs.plans(run)[0] == before[0]
    assert run.plan(0)["order"]["digest"] == first
    assert seen == planned(run)[4:]
    assert run.state["finished"]


def test_the_rows_are_those_of_the_rounds_files(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    rows = dataset(run.folder)
    assert len(rows) == 60
    found = [rows[place] for place in places_of(rows, run.ids(0))]
    assert found == pq.read_table(run.data(0)).to_pylist()
    assert rows.column_names == run.scored.schema.names  # the prompt is made when a row is asked for
    assert rows[3]["prompt"] == [{"role": "user", "content": "question 3"}]


def test_one_trainer_follows_one_run(tmp_path: Path, model: Path) -> None:
    run = runs.begin(tmp_path, align_to=4)
    trainer, _ = make(model, run, num_train_epochs=3)
    with pytest.raises(InputError, match="^this trainer follows a run already, and cannot follow .*run too"):
        attach(trainer, run.folder)


@pytest.mark.slow
def test_an_adapter_is_merged_before_the_re_scoring(tmp_path: Path, model: Path) -> None:
    peft = pytest.importorskip("peft")
    data = tiny.write_jsonl(tmp_path / "prompts.jsonl", tiny.questions(24))
    gaincurate.score(str(data), model=str(model), out=tmp_path / "set", dtype="float32")
    rescore = {"what": "round", "every": 1}
    run = runs.begin(tmp_path, rounds=2, align_to=4, model=str(model), rescore=rescore)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    trainer, seen = make(model, run, num_train_epochs=2, peft_config=lora)
    trainer.train()
    assert seen == planned(run)
    assert not (tmp_path / "out/checkpoint-2/model.safetensors").exists()
    assert run.plan(1)["inputs"]["rescored"] == "scores/00000"
    first = run.scored.take(run.rows(0)).column("gc_angle").to_pylist()
    again = ScoredSet(run.folder / "scores/00000").rows(run.ids(0)).column("gc_angle").to_pylist()
    assert max(abs(a - b) for a, b in zip(first, again, strict=True)) > 1e-4  # of another model
    assert not list((run.folder / "held").glob("*"))

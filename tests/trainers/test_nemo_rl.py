"""NeMo-RL's GRPO loop on a run: against a fake with its signatures, and where it is installed, its own classes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import fake_nemo_rl
import runs
from adapters import Table, adapter, exported, parameters, reward_of
from gaincurate.errors import InputError, OutcomeError, OutputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.nemo_rl.live import report

NAME = "gaincurate.trainers.nemo_rl.next_batch"
# torchdata 0.11's loader calls it; torch 2.13 minds.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


class Nemo:
    """The adapter with NeMo-RL's classes, fake or its own."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kind, self.monkeypatch = kind, monkeypatch
        if kind == "fake":
            self.wrapper: Any = fake_nemo_rl.MultipleDataloaderWrapper
            self.loader: Any = fake_nemo_rl.StatefulDataLoader
            self.collate: Any = fake_nemo_rl.rl_collate_fn
            self.fakes = fake_nemo_rl.modules()
        else:
            pytest.importorskip("nemo_rl.data.dataloader", reason="NeMo-RL is not installed")
            from nemo_rl.data.collate_fn import rl_collate_fn
            from nemo_rl.data.dataloader import MultipleDataloaderWrapper
            from torchdata.stateful_dataloader import StatefulDataLoader

            self.wrapper, self.loader, self.collate = (
                MultipleDataloaderWrapper,
                StatefulDataLoader,
                rl_collate_fn,
            )
            self.fakes = {}

    def begin(self, run: Run | None, checkpoints: Path | None, table: Table, data: Path | None = None) -> Any:
        """A process that trains: NeMo-RL's dataloader."""
        found = {"GAINCURATE_RUN": run and run.folder, "GAINCURATE_CHECKPOINTS": checkpoints}
        for name, value in (found | {"GAINCURATE_DATA": data}).items():
            if value is None:
                self.monkeypatch.delenv(name, raising=False)
            else:
                self.monkeypatch.setenv(name, str(value))
        (nemo_rl,) = adapter(self.monkeypatch, ["nemo_rl.live"], self.fakes)
        dataset = fake_nemo_rl.AllTaskProcessedDataset(table)
        loader = self.loader(dataset, batch_size=4, collate_fn=self.collate)
        steps = sorted(checkpoints.glob("step_*"), key=lambda path: int(path.name[5:])) if checkpoints else []
        if steps:  # as load_dataloader_state does, before the wrapper is made
            loader.load_state_dict(torch.load(steps[-1] / "train_dataloader_the-task.pt"))
        named = nemo_rl.next_batch if self.kind == "fake" else NAME
        return self.wrapper(4, {"custom_dataloader": named}, {"the-task": loader}), nemo_rl


@pytest.fixture(params=["fake", "real"])
def nemo(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Nemo:
    return Nemo(request.param, monkeypatch)


class Grpo:
    """What grpo_train does with its dataloader and an environment, two generations a prompt."""

    def __init__(self, nemo: Nemo, run: Run, checkpoints: Path, start: int = 0, keep_id: bool = True) -> None:
        columns = exported(run)
        data = None
        if not keep_id:  # NeMo-RL drops what it does not know
            data = checkpoints.parent / "data.parquet"
            pq.write_table(pa.table(columns), data)
            del columns["gc_id"]
        checkpoints.mkdir(exist_ok=True, parents=True)
        self.batches, self.module = nemo.begin(run, checkpoints, Table(columns), data)
        self.checkpoints, self.total = checkpoints, start
        self.trained: list[str] = []
        self.questions: list[str] = []

    def steps(self, count: int, save: bool = True) -> None:
        for _ in range(count):
            batch = next(self.batches)
            self.total += 1
            infos = [info for info in batch["extra_env_info"] for _ in range(2)]
            rewards = torch.tensor([reward_of(info["gc_id"]) for info in infos])
            report(infos, rewards, torch.ones(len(infos), dtype=torch.bool))
            self.trained += [info["gc_id"] for info in batch["extra_env_info"]]
            self.questions += [log[0]["content"] for log in batch["message_log"]]
            if save:
                folder = self.checkpoints / f"tmp_step_{self.total}"
                folder.mkdir()
                for name, loader in self.batches.dataloaders.items():
                    torch.save(loader.state_dict(), folder / f"train_dataloader_{name}.pt")
                folder.rename(self.checkpoints / f"step_{self.total}")

    def end(self) -> None:
        self.module._of_environment().live.close()


def planned(run: Run) -> list[str]:
    return [gc_id for round_ in range(run.config.rounds) for gc_id in run.ids(round_)]


@pytest.mark.parametrize("keep_id", [True, False])
def test_three_rounds_are_trained_as_planned(nemo: Nemo, tmp_path: Path, keep_id: bool) -> None:
    run = runs.begin(tmp_path, rounds=3)
    grpo = Grpo(nemo, run, tmp_path / "results", keep_id=keep_id)
    grpo.steps(6)
    with pytest.raises(StopIteration):
        grpo.steps(1)
    assert grpo.trained == planned(run)
    assert grpo.questions == [f"question {int(gc_id[2:])}" for gc_id in planned(run)]
    assert run.state["finished"]
    for round_ in range(3):
        lines = [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]
        found = [(x["gc_id"], x["round"], x["reward"], x["step"]) for x in lines if "gc_id" in x]
        expected = [
            (gc_id, round_, reward_of(gc_id), 2 * round_ + 1 + k // 4)
            for k, gc_id in enumerate(run.ids(round_))
            for _ in range(2)
        ]
        assert found == expected


@pytest.mark.parametrize(("saved_at", "killed_at"), [(1, 2), (2, 2), (3, 5), (2, 6), (5, 6)])
def test_resumed_in_the_middle_of_a_round_the_plans_are_those_of_a_run_that_never_stopped(
    nemo: Nemo, tmp_path: Path, saved_at: int, killed_at: int
) -> None:
    whole = runs.begin(tmp_path / "whole", rounds=3)
    first = Grpo(nemo, whole, tmp_path / "whole/results")
    first.steps(6)
    first.end()
    run = runs.begin(tmp_path / "cut", rounds=3)
    killed = Grpo(nemo, run, tmp_path / "cut/results")
    killed.steps(saved_at)
    killed.steps(killed_at - saved_at, save=False)
    killed.end()
    again = Grpo(nemo, run, tmp_path / "cut/results", start=saved_at)
    again.steps(6 - saved_at)
    assert killed.trained[: 4 * saved_at] + again.trained == planned(run)
    assert runs.plans(run) == runs.plans(whole)


def test_items_keep_what_the_environment_needs(nemo: Nemo, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    grpo = Grpo(nemo, run, tmp_path / "results")
    batch = next(grpo.batches)
    for gc_id, info, question in zip(run.ids(0), batch["extra_env_info"], batch["message_log"], strict=False):
        assert info == {
            "ground_truth": question[0]["content"][-1],
            "gc_id": gc_id,
            "gc_round": 0,
            "gc_step": 1,
            "gc_run": str(run.folder),
        }


def test_an_environment_that_does_not_report_is_named(nemo: Nemo, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    grpo = Grpo(nemo, run, tmp_path / "results")
    next(grpo.batches)
    next(grpo.batches)
    with pytest.raises(OutcomeError) as caught:
        next(grpo.batches)
    assert str(caught.value) == (
        f"round 0 has no outcomes: {run.outcomes(0)} is not there. The trainer writes it, one line for each rollout: "
        '{"gc_id": ..., "reward": ..., "round": 0}. The environment\'s step() has to call '
        "gaincurate.trainers.nemo_rl.report."
    )


def test_validation_and_unfinished_turns_are_not_reported(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    info = {"gc_id": run.ids(0)[0], "gc_round": 0, "gc_step": 1, "gc_run": str(run.folder)}
    report([None, {"ground_truth": "4"}, info, info], [1.0, 1.0, 0.25, 0.5], [True, True, False, True])
    report([{"gc_id": run.ids(0)[1]}], [1.0])  # of validation rows that keep their id
    lines = [json.loads(line) for line in run.outcomes(0).read_text().splitlines()]
    assert lines == [{"round": 0, "gc_id": run.ids(0)[0], "reward": 0.5, "step": 1}]


def test_an_environment_reports_from_another_process(nemo: Nemo, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    grpo = Grpo(nemo, run, tmp_path / "results")
    infos = next(grpo.batches)["extra_env_info"]
    program = (
        "import json, sys\nfrom gaincurate.trainers.nemo_rl import report\n"
        "infos = json.loads(sys.argv[1])\nreport(infos, [1.0] * len(infos))"
    )
    subprocess.run([sys.executable, "-c", program, json.dumps(infos)], check=True)
    found = [json.loads(line)["gc_id"] for line in run.outcomes(0).read_text().splitlines()]
    assert found == run.ids(0)[:4]


def test_a_bad_set_up_is_said(nemo: Nemo, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    table, fewer = Table(exported(run)), Table({"question": exported(run)["question"]})
    begin, results = nemo.begin, tmp_path / "results"
    with pytest.raises(
        InputError, match="^set GAINCURATE_CHECKPOINTS to checkpointing.checkpoint_dir: a resume"
    ):
        next(begin(run, None, table)[0])
    with pytest.raises(
        InputError, match="not said: give its folder by the environment variable GAINCURATE_RUN"
    ):
        next(begin(None, results, table)[0])
    with pytest.raises(
        InputError, match=r"^NeMo-RL's data.train, and GAINCURATE_DATA: the rows there have no gc_"
    ):
        next(begin(run, results, fewer)[0])
    other = tmp_path / "other.jsonl"
    other.write_text('{"gc_id": "id0000", "input": "why?"}\n')
    with pytest.raises(InputError, match="jsonl has 1 rows with gc_id, input, and 60 rows were read"):
        next(begin(run, results, fewer, other)[0])
    (results / "step_3").mkdir(parents=True)
    torch.save({}, results / "step_3/train_dataloader_the-task.pt")
    with pytest.raises(OutputError, match=r"step_3/train_dataloader_the-task\.pt names no place in a run"):
        next(begin(run, results, table)[0])


def test_a_batch_in_two_rounds_is_refused(nemo: Nemo, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=6)
    grpo = Grpo(nemo, run, tmp_path / "results")
    with pytest.raises(
        InputError, match="^the trainer takes 4 prompts a step and a round of .* has 6, which is"
    ):
        next(grpo.batches)


def test_without_nemo_rl_the_adapter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nemo_rl.data.collate_fn", None)
    (nemo_rl,) = adapter(monkeypatch, ["nemo_rl.live"], {})
    with pytest.raises(
        InputError, match=r"^this adapter is for NeMo-RL 7ea279abf \(2026-08-22\) and works inside"
    ):
        nemo_rl.next_batch({}, {})


def test_the_function_has_the_signature_of_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    (nemo_rl,) = adapter(monkeypatch, ["nemo_rl.live"], fake_nemo_rl.modules())
    expected = parameters(fake_nemo_rl.example_custom_dataloader)
    assert expected == ["data_iterators", "dataloaders", "**kwargs"]
    assert parameters(nemo_rl.next_batch) == [*expected[:2], "**records"]


def test_the_fake_has_the_signatures_of_nemo_rl() -> None:
    real = pytest.importorskip("nemo_rl.data.dataloader", reason="NeMo-RL is not installed")
    from nemo_rl.data.collate_fn import rl_collate_fn
    from nemo_rl.data.interfaces import DatumSpec
    from nemo_rl.environments.interfaces import EnvironmentReturn
    from torchdata.stateful_dataloader import StatefulDataLoader

    wrapper, fake = real.MultipleDataloaderWrapper, fake_nemo_rl.MultipleDataloaderWrapper
    assert parameters(fake.__init__) == parameters(wrapper.__init__)
    assert parameters(fake_nemo_rl.rl_collate_fn) == parameters(rl_collate_fn)
    assert fake_nemo_rl.EnvironmentReturn._fields == EnvironmentReturn._fields
    item = fake_nemo_rl.AllTaskProcessedDataset(Table({"question": ["why?"]}))[0]
    assert set(item) <= set(DatumSpec.__annotations__)
    assert parameters(fake_nemo_rl.StatefulDataLoader.state_dict) == parameters(StatefulDataLoader.state_dict)


@pytest.mark.parametrize("keeps_id", [False, True])
def test_nemo_rls_own_data_set_is_read_by_place_or_by_id(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keeps_id: bool
) -> None:
    """Rows with `input` and `output` lose their id there; rows with `messages` keep it."""
    datasets = pytest.importorskip("nemo_rl.data.datasets", reason="NeMo-RL is not installed")
    from nemo_rl.data.datasets.response_datasets.response_dataset import ResponseDataset

    run = runs.begin(tmp_path)
    rows = []
    for gc_id, question in zip(*exported(run).values(), strict=True):
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": "4"}]
        rows.append({"messages": said} if keeps_id else {"input": question, "output": "4"})
        rows[-1]["gc_id"] = gc_id
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def processor(row: Any, spec: Any, tokenizer: Any, longest: Any, place: int) -> dict[str, Any]:
        log = [{"role": "user", "content": row["messages"][0]["content"]}]
        rest = {"length": 3, "extra_env_info": {}, "loss_multiplier": 1.0, "idx": place}
        return {"message_log": log, **rest}

    data = ResponseDataset(data_path=str(path))
    assert ("gc_id" in data.dataset.column_names) is keeps_id
    (nemo_rl,) = adapter(monkeypatch, ["nemo_rl.live"], {})
    loader = Nemo("real", monkeypatch).loader(
        datasets.AllTaskProcessedDataset(data.dataset, None, None, processor), batch_size=4
    )
    batches = nemo_rl.RunBatches(str(run.folder), str(tmp_path / "results"), None if keeps_id else str(path))
    batch, _ = batches({}, {"the-task": loader})
    asked = [log[0]["content"] for log in batch["message_log"]]
    assert asked == [f"question {int(gc_id[2:])}" for gc_id in run.ids(0)[:4]]

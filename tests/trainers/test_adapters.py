"""Live adapters inside their trainers: against fakes with the trainers' signatures, and where a trainer is
installed, its own classes. A driver does what the trainer's loop does with the adapter, 4 prompts a step."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import fake_nemo_rl
import fake_slime
import fake_trinity
import fake_verifiers
import runs
from adapters import Table, adapter, exported, parameters, reward_of
from gaincurate.errors import InputError, LockedError, OutcomeError, OutputError
from gaincurate.schedule.run import Run

# torchdata 0.11's loader calls it; torch 2.13 minds.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
SAMPLER = "prime_rl.orchestrator.curriculum.samplers.standard"


class Loop(ABC):
    """One process of a trainer, from its start or from what an earlier one saved after `start` steps."""

    trained: list[str]

    @abstractmethod
    def steps(self, count: int) -> None:
        """Train, and save after each step."""

    @abstractmethod
    def ask_ahead(self) -> None:
        """Take two steps' prompts, the outcomes of neither being in."""

    @abstractmethod
    def end(self) -> None:
        """What the end of the process does."""


class Driver(ABC):
    """One trainer, fake or real."""

    module: str
    rollouts = 2
    """Lines of outcomes a prompt."""
    resumes_unseen = False
    """Whether its adapter cannot tell a resume from a start."""
    where: str
    """The setting that gives the run."""
    ahead: str
    """The end of the error where outcomes are missing."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.real, self.monkeypatch = kind == "real", monkeypatch

    def adapter(self, fakes: dict[str, Any]) -> Any:
        return adapter(self.monkeypatch, [self.module], {} if self.real else fakes)[0]

    @abstractmethod
    def begin(self, run: Run | None, folder: Path, start: int = 0) -> Loop: ...


# NeMo-RL.


class Nemo(Driver):
    module = "nemo_rl.live"
    where = "the environment variable GAINCURATE_RUN"
    ahead = "The environment's step() has to call gaincurate.trainers.nemo_rl.report."

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(kind, monkeypatch)
        fake = fake_nemo_rl
        parts: Any = (fake.MultipleDataloaderWrapper, fake.StatefulDataLoader, fake.rl_collate_fn)
        if self.real:
            pytest.importorskip("nemo_rl.data.dataloader", reason="NeMo-RL is not installed")
            from nemo_rl.data.collate_fn import rl_collate_fn
            from nemo_rl.data.dataloader import MultipleDataloaderWrapper
            from torchdata.stateful_dataloader import StatefulDataLoader

            parts = (MultipleDataloaderWrapper, StatefulDataLoader, rl_collate_fn)
        self.wrapper, self.loader, self.collate = parts

    def batches(self, run: Run | None, checkpoints: Path | None, table: Table, data: Path | None) -> Any:
        given = {"RUN": run and run.folder, "CHECKPOINTS": checkpoints, "DATA": data}
        for name, value in given.items():
            if value is None:
                self.monkeypatch.delenv(f"GAINCURATE_{name}", raising=False)
            else:
                self.monkeypatch.setenv(f"GAINCURATE_{name}", str(value))
        module = self.adapter(fake_nemo_rl.modules())
        dataset = fake_nemo_rl.AllTaskProcessedDataset(table)
        loader = self.loader(dataset, batch_size=4, collate_fn=self.collate)
        steps = sorted(checkpoints.glob("step_*")) if checkpoints else []
        if steps:  # as load_dataloader_state does, before the wrapper is made
            loader.load_state_dict(torch.load(steps[-1] / "train_dataloader_the-task.pt"))
        named = "gaincurate.trainers.nemo_rl.next_batch" if self.real else module.next_batch
        return self.wrapper(4, {"custom_dataloader": named}, {"the-task": loader}), module

    def begin(self, run: Run | None, folder: Path, start: int = 0, keep_id: bool = True) -> NemoLoop:
        columns = exported(run or Run(folder / "run"))
        data = None
        if not keep_id:  # NeMo-RL drops what it does not know
            data = folder / "data.parquet"
            pq.write_table(pa.table(columns), data)
            del columns["gc_id"]
        checkpoints = folder / "results"
        checkpoints.mkdir(exist_ok=True)
        for path in checkpoints.glob("step_*"):  # saved after the step that this process resumes from
            if int(path.name[5:]) > start:
                path.rename(folder / f"later-{path.name}")
        batches, module = self.batches(run, checkpoints, Table(columns), data)
        return NemoLoop(batches, module, checkpoints, start)


class NemoLoop(Loop):
    def __init__(self, batches: Any, module: Any, checkpoints: Path, start: int) -> None:
        self.batches, self.module, self.checkpoints, self.total = batches, module, checkpoints, start
        self.trained, self.questions = list[str](), list[str]()

    def steps(self, count: int) -> None:
        for _ in range(count):
            batch = next(self.batches)
            self.total += 1
            infos = [info for info in batch["extra_env_info"] for _ in range(2)]
            rewards = torch.tensor([reward_of(info["gc_id"]) for info in infos])
            self.module.report(infos, rewards, torch.ones(len(infos), dtype=torch.bool))
            self.trained += [info["gc_id"] for info in batch["extra_env_info"]]
            self.questions += [log[0]["content"] for log in batch["message_log"]]
            folder = self.checkpoints / f"tmp_step_{self.total}"
            folder.mkdir()
            for name, loader in self.batches.dataloaders.items():
                torch.save(loader.state_dict(), folder / f"train_dataloader_{name}.pt")
            folder.rename(self.checkpoints / f"step_{self.total}")

    def ask_ahead(self) -> None:
        next(self.batches)
        next(self.batches)

    def end(self) -> None:
        self.module._of_environment().live.close()


# slime.


class Slime(Driver):
    module = "slime.live"
    where = "--prompt-data FOLDER"
    ahead = "slime reports where a rollout ends; the prompts of a group that it lost have no outcomes."

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(kind, monkeypatch)
        if self.real:
            pytest.importorskip("slime.rollout.data_source", reason="slime is not installed")
        self.live = self.adapter(fake_slime.modules())
        monkeypatch.setattr(self.live, "load_tokenizer", fake_slime.load_tokenizer)  # there is no model here
        monkeypatch.setattr(self.live, "load_processor", fake_slime.load_processor)

    def begin(self, run: Run | None, folder: Path, start: int = 0, **given: Any) -> SlimeLoop:
        save = {"save": str(folder), "load": str(folder)}
        return SlimeLoop(self.live, fake_slime.arguments(run and run.folder, **save, **given), start)


class SlimeLoop(Loop):
    def __init__(self, live: Any, args: Any, start: int) -> None:
        self.live, self.args, self.source, self.next = live, args, live.RunDataSource(args), start
        self.source.load(start - 1)
        self.trained, self.groups = list[str](), list[Any]()

    def steps(self, count: int, save: bool = True) -> None:
        for _ in range(count):
            groups = fake_slime.generate(self.args, self.source, self.live.report)
            self.groups += groups
            self.trained += [group[0].metadata["gc_id"] for group in groups]
            if save:
                self.source.save(self.next)
            self.next += 1

    def ask_ahead(self) -> None:
        for _ in range(2):
            self.source.get_samples(4)

    def end(self) -> None:
        self.source.live.close()


# Trinity-RFT.


class Trinity(Driver):
    module = "trinity.live"
    rollouts = 1
    where = r"data_selector\.kwargs: \{run: FOLDER\}"
    ahead = "with sync_offset 0 and a sync_style other than fully_async."

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(kind, monkeypatch)
        if self.real:
            pytest.importorskip("trinity", reason="Trinity-RFT is not installed")
            from trinity.buffer.selector import SELECTORS

            name = "gaincurate.trainers.trinity.RunSelector"
            monkeypatch.delitem(SELECTORS.modules, name, raising=False)
        self.live = self.adapter(fake_trinity.modules())
        self.saved = dict[int, Any]()

    def tasks(self, run: Run | None, folder: Path, saved: Any, columns: Any = None) -> Any:
        columns = columns or exported(run or Run(folder / "run"))
        if not self.real:
            chosen = (self.live.RunSelector, run and str(run.folder))
            return fake_trinity.TasksetScheduler(saved, chosen, Table(columns), 4)
        from trinity.buffer.task_scheduler import get_taskset_scheduler
        from trinity.common.config import Config, DataSelectorConfig, TasksetConfig

        path = folder / "tasks"
        path.mkdir(exist_ok=True)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        (path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = Config()
        config.buffer.batch_size, config.buffer.total_steps = 4, 100
        selector = DataSelectorConfig(
            selector_type="gaincurate.trainers.trinity.RunSelector",
            kwargs={"run": str(run.folder)} if run else {},
        )
        tasks = TasksetConfig(name="the-set", path=str(path), data_selector=selector)
        tasks.default_workflow_type, tasks.total_steps, tasks.batch_size = "math_workflow", 100, 4
        config.buffer.explorer_input.tasksets = [tasks]
        return get_taskset_scheduler(explorer_state=saved, config=config)

    def begin(self, run: Run | None, folder: Path, start: int = 0, interval: int = 1) -> TrinityLoop:
        tasks = self.tasks(run, folder, self.saved[start] if start else {})
        return TrinityLoop(tasks, exported(run)["gc_id"] if run else [], start, interval, self.saved)


class TrinityLoop(Loop):
    """Reads ahead, feeds back where it syncs, saves there."""

    def __init__(self, tasks: Any, ids: list[str], start: int, interval: int, saved: dict[int, Any]) -> None:
        self.tasks, self.ids, self.step, self.interval, self.saved = tasks, ids, start, interval, saved
        self.open, self.trained = list[list[Any]](), list[str]()

    def steps(self, count: int) -> None:
        for _ in range(count):
            try:
                tasks = asyncio.run(self.tasks.read())
            except StopAsyncIteration as error:
                raise StopIteration from error
            self.step += 1
            self.open.append([task.index for task in tasks])
            self.trained += [task.raw_task["gc_id"] for task in tasks]
            if self.step % self.interval == 0:
                self.finish(len(self.open))
                self.save()

    def finish(self, batches: int) -> None:
        for _ in range(batches):
            indices = [index["index"] for index in self.open.pop(0)]
            metrics = {"indices": indices, "values": [reward_of(self.ids[index]) for index in indices]}
            self.tasks.feedback({fake_trinity.SELECTOR_METRIC: {0: metrics}, "other": 1.0})

    def save(self) -> None:
        state = {"latest_iteration": self.step, "taskset_states": self.tasks.state_dict()}
        self.saved[self.step] = json.loads(json.dumps(state))

    def ask_ahead(self) -> None:
        self.interval = 100
        self.steps(2)

    def end(self) -> None:
        selector = getattr(self.tasks, "selector", None) or self.tasks.tasksets[0].reader.selector
        selector.live.close()


# prime-rl.


class Trace:
    """As much of verifiers' Trace as scoring touches."""

    def __init__(self, number: str) -> None:
        self.id, self.metrics, self.rewards = number, dict[str, Any](), dict[str, Any]()

    def record_reward(self, name: str, value: float, weight: float = 1.0) -> None:
        self.rewards[name] = value * weight

    @property
    def reward(self) -> float:
        return float(sum(self.rewards.values()))


class Prime(Driver):
    """An environment package of a user's."""

    module = "prime_rl.live"
    resumes_unseen = True
    where = "the taskset's `run`"
    ahead = "of its prompts are on their way when the next one begins."

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(kind, monkeypatch)
        self.sampler: Any = fake_verifiers.StandardSampler
        if self.real:
            pytest.importorskip("verifiers.v1", reason="verifiers is not installed")
            self.sampler = pytest.importorskip(SAMPLER, reason="prime-rl is not installed").StandardSampler
        module = self.adapter(fake_verifiers.modules())
        vf: Any = importlib.import_module("verifiers.v1")

        class Data(module.RunData):  # type: ignore[misc,name-defined]
            answer: str

        class MathTask(module.RunTask, vf.Task[Data]):  # type: ignore[misc,name-defined]
            @vf.reward  # type: ignore[untyped-decorator]
            async def solved(self, trace: Any) -> float:
                if self.data.answer == "question 999":
                    raise RuntimeError("the judge is gone")
                return reward_of(self.data.gc_id)

        config = module.RunConfig

        class MathTaskset(module.RunTaskset, vf.Taskset[MathTask, config]):  # type: ignore[misc,name-defined]
            def task_of(self, row: dict[str, Any], carried: dict[str, Any]) -> Any:
                data = Data(prompt=row["prompt"][-1]["content"], answer=row["question"], **carried)
                return MathTask(data, self.config.task)

        self.data, self.task, self.set, self.config = (Data, MathTask, MathTaskset, config)

    def begin(self, run: Run | None, folder: Path, start: int = 0, ahead: int = 0) -> PrimeLoop:
        config = self.config(run=str(run.folder)) if run else self.config()
        return PrimeLoop(self, self.set(config), 4 * start, ahead)


class PrimeLoop(Loop):
    """Dispatches `ahead` groups before the oldest one comes back."""

    def __init__(self, prime: Prime, taskset: Any, cursor: int, ahead: int) -> None:
        self.prime, self.ahead, self.tasks = prime, ahead, iter(taskset)
        self.sampler = prime.sampler(self.tasks)
        self.sampler.load_state_dict({"cursor": cursor})
        self.inflight, self.trained = list[Any](), list[str]()

    def steps(self, count: int) -> None:
        self.groups(4 * count)

    def groups(self, count: int) -> None:
        for _ in range(count):
            while len(self.inflight) <= self.ahead:
                self.inflight.append(next(self.sampler))
            self.serve(self.inflight.pop(0))

    def serve(self, sent: Any) -> None:
        """The environment's server: it has the data alone."""
        data = self.prime.data.model_validate(json.loads(json.dumps(sent.data.model_dump(mode="json"))))
        task = self.prime.task(data)
        assert (task.key, task.hash) == (sent.key, sent.hash)  # prime-rl refuses the episode otherwise
        for k in range(2):
            asyncio.run(task.score(Trace(f"{id(self)}-{data.idx}-{k}"), None))
        self.trained.append(data.gc_id)

    def ask_ahead(self) -> None:
        self.ahead = 4
        self.groups(1)

    def end(self) -> None:
        self.tasks.close()


# What holds for all of them.

DRIVERS: tuple[type[Driver], ...] = (Nemo, Slime, Trinity, Prime)
BOTH = [(driver, kind) for driver in DRIVERS for kind in ("fake", "real")]
IDS = [f"{driver.__name__}-{kind}" for driver, kind in BOTH]


@pytest.fixture(params=BOTH, ids=IDS)
def trainer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    driver, kind = request.param
    return driver(kind, monkeypatch)


@pytest.fixture(params=["fake", "real"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def planned(run: Run) -> list[str]:
    return [gc_id for round_ in range(run.config.rounds) for gc_id in run.ids(round_)]


def lines_of(run: Run, round_: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]


def test_rounds_are_trained_as_planned_and_every_rollout_is_reported(trainer: Driver, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=3)
    loop = trainer.begin(run, tmp_path)
    loop.steps(6)
    assert loop.trained == planned(run)
    for round_ in range(3):
        lines = [(x["gc_id"], x["round"], x["reward"]) for x in lines_of(run, round_) if "gc_id" in x]
        expected = [(gc_id, round_, reward_of(gc_id)) for gc_id in run.ids(round_)]
        assert lines == [line for line in expected for _ in range(trainer.rollouts)]
    if trainer.resumes_unseen:  # the stream goes on, and is not reported
        loop.steps(2)
        assert loop.trained[24:] == run.ids(2)
        assert len(lines_of(run, 2)) == 16
        return
    with pytest.raises((StopIteration, InputError)):
        loop.steps(1)
    assert run.state["finished"]


@pytest.mark.parametrize(("saved_at", "killed_at"), [(1, 2), (2, 2), (3, 5), (2, 6), (5, 6)])
def test_resumed_in_the_middle_of_a_round_the_plans_are_those_of_a_run_that_never_stopped(
    trainer: Driver, tmp_path: Path, saved_at: int, killed_at: int
) -> None:
    whole, run = (runs.begin(tmp_path / name, rounds=3) for name in ("whole", "cut"))
    trainer.begin(whole, tmp_path / "whole").steps(6)
    killed = trainer.begin(run, tmp_path / "cut")
    killed.steps(killed_at)
    killed.end()
    again = trainer.begin(run, tmp_path / "cut", saved_at)
    again.steps(6 - saved_at)
    assert killed.trained[: 4 * saved_at] + again.trained == planned(run)
    assert runs.plans(run) == runs.plans(whole)


def test_a_training_that_begins_anew_takes_round_0_back_and_no_more(trainer: Driver, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    for name, steps in (("a", 1), ("b", 3)):
        (tmp_path / name).mkdir()
        loop = trainer.begin(run, tmp_path / name)
        loop.steps(steps)
        loop.end()
    assert run.plan(1)["inputs"]["rollouts"] == 8 * trainer.rollouts
    if not trainer.resumes_unseen:
        (tmp_path / "c").mkdir()
        with pytest.raises(OutputError, match="stands at round 1 and the trainer begins at step 0"):
            trainer.begin(run, tmp_path / "c").steps(1)


def test_a_run_that_it_cannot_follow_is_refused(
    trainer: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaincurate.core.process._FREED", 0.0)
    run = runs.begin(tmp_path)
    sizes = {"strategy": "posterior", "options": {"group_sizes": "2,16"}}
    refused: list[tuple[Any, type[Exception], str]] = [
        (None, InputError, f"not said: give its folder by {trainer.where}"),
        ({"rescore": {"what": "round"}}, InputError, r"\(--rescore round\), which is not done live with"),
        (
            sizes,
            InputError,
            "give each prompt a group size, and .* has one size for all prompts. Start a run",
        ),
    ]
    for number, (options, error, sentence) in enumerate(refused):
        folder = tmp_path / str(number)
        other = None if options is None else runs.begin(folder, **options)
        with pytest.raises(error, match=sentence):
            trainer.begin(other, folder if other else tmp_path).steps(1)
    loop = trainer.begin(run, tmp_path)
    loop.steps(1)
    with pytest.raises(LockedError, match="still at work"):
        trainer.begin(run, tmp_path).steps(1)


def test_a_batch_in_two_rounds_is_refused(trainer: Driver, tmp_path: Path) -> None:
    if trainer.resumes_unseen:
        pytest.skip("prime-rl asks for one prompt at a time")
    run = runs.begin(tmp_path, budget=6)
    with pytest.raises(InputError, match="4 prompts a step"):
        trainer.begin(run, tmp_path).steps(1)


@pytest.mark.parametrize(
    ("package", "missing", "public", "version"),
    [
        ("slime", "slime.utils.data", "report", r"slime 624b824a8 \(2026-08-21\)"),
        ("trinity", "trinity.buffer.selector.selector", "RunSelector", "Trinity-RFT 0.6"),
        ("prime_rl", "verifiers.v1", "RunTask", r"verifiers a60a606ec \(2026-08-21\)"),
        ("verl", "verl", "RunDataset", "verl 0.9.1"),
    ],
)
def test_without_its_trainer_an_adapter_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str, missing: str, public: str, version: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, f"gaincurate.trainers.{package}.live", raising=False)
    with pytest.raises(InputError, match=f"^this adapter is for {version} and works inside it alone"):
        getattr(importlib.import_module(f"gaincurate.trainers.{package}"), public)


def test_the_sentence_of_a_round_without_outcomes_has_the_trainers_reason(
    trainer: Driver, tmp_path: Path
) -> None:
    run = runs.begin(tmp_path, budget=12)
    loop = trainer.begin(run, tmp_path)
    loop.steps(2)
    with pytest.raises(OutcomeError) as caught:
        loop.ask_ahead()
    assert str(caught.value).startswith("round 0 has outcomes for 8 of its 12 prompts and 100% of them")
    assert f"lacks {', '.join(run.ids(0)[8:])}. " in str(caught.value)
    assert str(caught.value).endswith(
        f"{trainer.ahead} A run that is started with --min-coverage 0.6666 goes on here, and what comes later "
        "counts as late."
    )


# What holds for one.


@pytest.fixture
def nemo(kind: str, monkeypatch: pytest.MonkeyPatch) -> Nemo:
    return Nemo(kind, monkeypatch)


@pytest.mark.parametrize("keep_id", [True, False])
def test_nemo_rl_finds_rows_by_id_or_by_place_and_keeps_what_the_environment_needs(
    nemo: Nemo, tmp_path: Path, keep_id: bool
) -> None:
    run = runs.begin(tmp_path)
    loop = nemo.begin(run, tmp_path, keep_id=keep_id)
    loop.steps(2)
    assert loop.questions == [f"question {int(gc_id[2:])}" for gc_id in run.ids(0)]
    info = next(loop.batches)["extra_env_info"][0]
    made = {"gc_id": run.ids(1)[0], "gc_round": 1, "gc_step": 3, "gc_run": str(run.folder)}
    assert info == {"ground_truth": info["ground_truth"], **made}


def test_nemo_rls_environment_reports_what_ended_from_any_process(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    info = {"gc_id": run.ids(0)[0], "gc_round": 0, "gc_step": 1, "gc_run": str(run.folder)}
    validation = {"gc_id": run.ids(0)[1]}  # rows that keep their id
    program = (
        "import json, sys\nfrom gaincurate.trainers.nemo_rl import report\n"
        "report(json.loads(sys.argv[1]), [1.0, 1.0, 0.25, 0.5, 1.0], [True, True, False, True, True])"
    )
    infos = json.dumps([None, {"ground_truth": "4"}, info, info, validation])
    subprocess.run([sys.executable, "-c", program, infos], check=True)
    assert lines_of(run, 0) == [{"round": 0, "gc_id": run.ids(0)[0], "reward": 0.5, "step": 1}]


def test_a_bad_set_up_of_nemo_rl_is_said(nemo: Nemo, tmp_path: Path) -> None:
    run, results = runs.begin(tmp_path), tmp_path / "results"
    table, fewer = Table(exported(run)), Table({"question": exported(run)["question"]})
    other = tmp_path / "other.jsonl"
    other.write_text('{"gc_id": "id0000", "input": "why?"}\n')
    for sentence, *given in (
        ("^set GAINCURATE_CHECKPOINTS to checkpointing.checkpoint_dir: a resume", None, table, None),
        (
            "data.train have no gc_id, so GAINCURATE_DATA is needed: there is no file None",
            results,
            fewer,
            None,
        ),
        ("jsonl has 1 rows with gc_id, input, not the 60 that were read", results, fewer, other),
    ):
        with pytest.raises(InputError, match=sentence):
            next(nemo.batches(run, *given)[0])
    (results / "step_3").mkdir(parents=True)
    torch.save({}, results / "step_3/train_dataloader_the-task.pt")
    with pytest.raises(OutputError, match=r"step_3/train_dataloader_the-task\.pt names no place in a run"):
        next(nemo.batches(run, results, table, None)[0])


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
    nemo = Nemo("real", monkeypatch)
    loader = nemo.loader(datasets.AllTaskProcessedDataset(data.dataset, None, None, processor), batch_size=4)
    live = nemo.adapter({})
    batches = live.RunBatches(str(run.folder), str(tmp_path / "results"), None if keeps_id else str(path))
    batch, _ = batches({}, {"the-task": loader})
    asked = [log[0]["content"] for log in batch["message_log"]]
    assert asked == [f"question {int(gc_id[2:])}" for gc_id in run.ids(0)[:4]]


@pytest.fixture
def slime(kind: str, monkeypatch: pytest.MonkeyPatch) -> Slime:
    return Slime(kind, monkeypatch)


def test_slimes_groups_and_samples_are_numbered_and_carry_prompt_label_and_round(
    slime: Slime, tmp_path: Path
) -> None:
    run = runs.begin(tmp_path)
    loop = slime.begin(run, tmp_path, label_key="question")
    assert len(loop.source) == 8  # slime's epoch: two rollouts
    loop.steps(1)
    loop.end()
    again = slime.begin(run, tmp_path, start=1, label_key="question")
    again.steps(2)
    for number, group in enumerate([*loop.groups, *again.groups]):
        assert [sample.group_index for sample in group] == [number] * 2
        assert [sample.index for sample in group] == [2 * number, 2 * number + 1]
        question = f"question {int(group[0].metadata['gc_id'][2:])}"
        assert group[1].prompt == [{"role": "user", "content": question}]
        assert group[1].label == question
        assert group[1].metadata["gc_round"] == number // 8
        assert group[0].metadata is not group[1].metadata
    assert [(line["sample"], line["tokens"]) for line in lines_of(run, 1)] == [(0, 7), (1, 7)] * 4


def test_saved_while_slime_generates_the_next_rollout_the_place_is_the_trained_ones(
    slime: Slime, tmp_path: Path
) -> None:
    """train_async.py: rollout 1 is there already when 0 is saved."""
    run = runs.begin(tmp_path)
    loop = slime.begin(run, tmp_path)
    loop.steps(2, save=False)
    loop.source.save(0)
    loop.end()
    again = slime.begin(run, tmp_path, start=1)
    again.steps(2)
    assert again.trained == [*run.ids(0)[4:], *run.ids(1)[:4]]
    assert run.plan(1)["inputs"]["rollouts"] == 16


def test_a_reward_of_slimes_that_is_missing_or_one_of_many_is_read(slime: Slime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    loop = slime.begin(run, tmp_path, reward_key="score")
    groups = loop.source.get_samples(2)
    groups[0][0].reward, groups[0][1].reward = {"score": 1, "format": 0}, None
    split = [[sample, sample] for sample in groups[1]]  # one rollout in two training samples
    for sample in groups[1]:
        sample.reward = {"score": 0.5}
    slime.live.report(loop.args, [groups[0], split], loop.source.get_samples)
    assert [line["reward"] for line in lines_of(run, 0)] == [1.0, None, 0.5, 0.5]


@pytest.mark.parametrize(
    ("wrong", "findings"),
    [
        (
            "rollout_all_samples_process_path=None rollout_batch_size=3 input_key='input' num_epoch=7",
            "adapter-missing epochs tail over-sampling prompt-key",
        ),
        (
            "over_sampling_batch_size=6 partial_rollout=True dynamic_sampling_filter_path='my.filter'",
            "over-sampling dynamic-sampling partial-rollout",
        ),
    ],
)
def test_all_settings_of_slime_that_break_the_schedule_are_refused_at_once(
    slime: Slime, tmp_path: Path, wrong: str, findings: str
) -> None:
    run = runs.begin(tmp_path)
    with pytest.raises(InputError) as caught:
        slime.begin(run, tmp_path, **eval(f"dict({wrong.replace(' ', ', ')})"))
    assert caught.value.data["findings"] == findings.split()
    slime.begin(run, tmp_path)  # the refused one let the run go


def test_a_rollout_of_slimes_that_was_not_reported_or_did_not_follow_is_said(
    slime: Slime, tmp_path: Path
) -> None:
    loop = slime.begin(runs.begin(tmp_path), tmp_path)
    with pytest.raises(InputError, match="^rollout 0 was not reported: give --rollout-all-samples-process-"):
        loop.source.save(0)
    with pytest.raises(OutputError, match=r"gaincurate_state_4\.json is not there: rollout 4 did not follow"):
        loop.source.load(4)


@pytest.fixture
def trinity(kind: str, monkeypatch: pytest.MonkeyPatch) -> Trinity:
    return Trinity(kind, monkeypatch)


def test_with_enough_coverage_trinity_goes_on_and_the_rest_is_late(trinity: Trinity, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=12, min_coverage=0.6666)
    loop = trinity.begin(run, tmp_path, interval=2)
    loop.steps(6)
    assert loop.trained == [*run.ids(0), *run.ids(1)]
    assert [line["gc_id"] for line in lines_of(run, 1) if line["round"] == 0] == run.ids(0)[8:]
    loop.steps(1)
    assert run.plan(2)["inputs"]["late"] == 4


def test_a_batch_of_trinitys_that_failed_whole_does_not_take_the_next_ones_outcomes(
    trinity: Trinity, tmp_path: Path
) -> None:
    run = runs.begin(tmp_path, min_coverage=0.5)
    loop = trinity.begin(run, tmp_path, interval=100)
    loop.steps(2)
    loop.tasks.feedback({"other": 1.0})
    del loop.open[0]
    loop.finish(1)
    assert [(line["gc_id"], line["step"]) for line in lines_of(run, 0)] == [(i, 2) for i in run.ids(0)[4:]]
    loop.steps(1)
    assert run.plan(1)["inputs"]["prompts"] == 4


def test_batches_on_their_way_when_trinity_saves_are_explored_again(trinity: Trinity, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    killed = trinity.begin(run, tmp_path, interval=100)
    killed.steps(2)
    killed.finish(1)
    killed.save()
    killed.end()
    again = trinity.begin(run, tmp_path, start=2)
    again.steps(2)
    assert again.trained == [*run.ids(0)[4:], *run.ids(1)[:4]]
    assert run.plan(1)["inputs"]["rollouts"] == 8


def test_a_bad_set_up_of_trinity_is_said(trinity: Trinity, tmp_path: Path) -> None:
    run = runs.begin(tmp_path / "a")
    with pytest.raises(OutputError, match="the task set 'the-set' has no column gc_id; write it with"):
        trinity.tasks(run, tmp_path, {}, {"question": ["why?"]})
    run = runs.begin(tmp_path / "b")
    with pytest.raises(OutputError, match="the explorer's saved state is another selector's: no run can"):
        trinity.tasks(run, tmp_path, {"latest_iteration": 2, "taskset_states": [{"current_index": 8}]})
    run = runs.begin(tmp_path / "c")
    columns = exported(run)
    at = columns["gc_id"].index(run.ids(0)[1])
    fewer = {name: values[:at] + values[at + 1 :] for name, values in columns.items()}
    with pytest.raises(
        InputError, match=f"^'{run.ids(0)[1]}' of the run is not among the 59 rows that the task"
    ):
        asyncio.run(trinity.tasks(run, tmp_path, {}, fewer).read())


def test_what_trinitys_own_operator_calculates_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    operators = pytest.importorskip("trinity.buffer.operators.mappers.pass_rate_calculator")
    trinity, run = Trinity("real", monkeypatch), runs.begin(tmp_path)
    tasks = trinity.tasks(run, tmp_path, {})
    rollouts = [
        SimpleNamespace(info={"task_index": task.index}, reward=reward)
        for task in asyncio.run(tasks.read())
        for reward in (0.0, 1.0, 1.0, 0.0)
    ]
    tasks.feedback(operators.PassRateCalculator().process(rollouts)[1])
    assert [(line["gc_id"], line["reward"]) for line in lines_of(run, 0)] == [
        (i, 0.5) for i in run.ids(0)[:4]
    ]


@pytest.fixture
def prime(kind: str, monkeypatch: pytest.MonkeyPatch) -> Prime:
    return Prime(kind, monkeypatch)


def test_prime_rls_fast_forward_changes_nothing(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    killed = prime.begin(run, tmp_path)
    killed.groups(16)
    killed.end()

    def seen() -> dict[str, bytes]:
        paths = [path for path in run.folder.rglob("*") if path.is_file() and path.name != "execution.jsonl"]
        return {str(path): path.read_bytes() for path in paths}

    before = seen()
    again = prime.begin(run, tmp_path, start=4)  # a whole round, whose outcomes are in, is not turned
    assert seen() == before
    assert run.state["round"] == 1
    again.groups(1)
    assert run.state["round"] == 2


@pytest.mark.parametrize(("cursor", "killed_at"), [(3, 6), (5, 5), (9, 14), (13, 24)])
def test_prime_rl_resumes_at_any_task(prime: Prime, tmp_path: Path, cursor: int, killed_at: int) -> None:
    whole, run = (runs.begin(tmp_path / name, rounds=4) for name in ("whole", "cut"))
    prime.begin(whole, tmp_path).groups(32)
    killed = prime.begin(run, tmp_path)
    killed.groups(killed_at)
    killed.end()
    again = prime.begin(run, tmp_path)
    for _ in range(cursor):
        next(again.sampler)
    again.groups(32 - cursor)
    assert killed.trained[:cursor] + again.trained == planned(run)
    assert runs.plans(run) == runs.plans(whole)
    assert [run.plan(round_)["inputs"]["late"] for round_ in (1, 2, 3)] == [0, 0, 0]


def test_with_enough_coverage_prime_rl_goes_on_and_the_rest_is_late(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, min_coverage=0.75, rounds=4)
    loop = prime.begin(run, tmp_path, ahead=2)
    loop.groups(20)
    assert loop.trained == [*run.ids(0), *run.ids(1), *run.ids(2)[:4]]
    late = [line["gc_id"] for line in lines_of(run, 1) if line["round"] == 0]
    assert late == [gc_id for gc_id in run.ids(0)[6:] for _ in range(2)]
    assert run.plan(2)["inputs"]["late"] == 2


def test_a_key_of_prime_rls_is_the_prompts_and_no_score_is_in_the_data(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rows=8, with_scores=True, strategy="uniform")
    loop = prime.begin(run, tmp_path)
    tasks = []
    for _ in range(16):
        tasks.append(next(loop.sampler))
        loop.serve(tasks[-1])
    assert {task.key for task in tasks[:8]} == {task.key for task in tasks[8:]} == set(run.ids(0))
    fields = {"gc_id", "gc_round", "gc_attempt", "gc_run"}
    assert {name for name in type(tasks[0].data).model_fields if name.startswith("gc_")} == fields


def test_a_rollout_of_prime_rls_that_cannot_be_scored_is_unjudged(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    task = next(prime.begin(run, tmp_path).sampler)
    broken = prime.task(task.data.model_copy(update={"answer": "question 999"}))
    with pytest.raises(Exception, match="the judge is gone"):
        asyncio.run(broken.score(Trace("a")))
    assert [line["reward"] for line in lines_of(run, 0)] == [None]


# Signatures: the adapter's are its fake's, and the fake's are the trainer's.

SELECTOR = ("__init__", "get_indices", "feedback", "state_dict", "load_state_dict")
SOURCE = ("get_samples", "add_samples", "save", "load", "__len__")


@pytest.mark.parametrize(
    ("module", "ours", "fake", "names"),
    [
        ("trinity", "RunSelector", fake_trinity.BaseSelector, SELECTOR),
        ("slime", "RunDataSource", fake_slime.DataSource, SOURCE),
        ("prime_rl", "RunTask", fake_verifiers.Task, ("score",)),
        ("prime_rl", "RunTaskset", fake_verifiers.Taskset, ("load",)),
    ],
)
def test_an_adapter_has_the_signatures_of_its_base(
    monkeypatch: pytest.MonkeyPatch, module: str, ours: str, fake: Any, names: tuple[str, ...]
) -> None:
    fakes = fake_trinity.modules() | fake_slime.modules() | fake_verifiers.modules()
    (live,) = adapter(monkeypatch, [f"{module}.live"], fakes)
    for name in names:
        assert parameters(getattr(getattr(live, ours), name)) == parameters(getattr(fake, name))


def test_the_functions_have_the_signatures_that_their_trainers_call(monkeypatch: pytest.MonkeyPatch) -> None:
    nemo, slime = adapter(
        monkeypatch, ["nemo_rl.live", "slime.live"], fake_nemo_rl.modules() | fake_slime.modules()
    )
    assert parameters(nemo.next_batch) == ["data_iterators", "dataloaders", "**records"]
    assert parameters(slime.report) == ["args", "all_samples", "data_source"]


@pytest.mark.parametrize(
    ("fake", "place", "names"),
    [
        (fake_trinity.BaseSelector, "trinity.buffer.selector.selector:BaseSelector", SELECTOR),
        (fake_slime.DataSource, "slime.rollout.data_source:DataSource", SOURCE),
        (fake_slime.Dataset, "slime.utils.data:Dataset", ("__init__",)),
        (fake_slime.Sample, "slime.utils.types:Sample", ("get_reward_value",)),
        (fake_verifiers.Task, "verifiers.v1:Task", ("__init__", "score")),
        (fake_verifiers.Taskset, "verifiers.v1:Taskset", ("__init__", "load", "__iter__")),
        (
            fake_verifiers.StandardSampler,
            f"{SAMPLER}:StandardSampler",
            ("__init__", "__next__", "state_dict"),
        ),
        (
            fake_nemo_rl.MultipleDataloaderWrapper,
            "nemo_rl.data.dataloader:MultipleDataloaderWrapper",
            ("__init__",),
        ),
        (
            fake_nemo_rl.StatefulDataLoader,
            "torchdata.stateful_dataloader:StatefulDataLoader",
            ("state_dict",),
        ),
    ],
)
def test_a_fake_has_the_signatures_of_its_trainer(fake: Any, place: str, names: tuple[str, ...]) -> None:
    module, _, kind = place.partition(":")
    real = getattr(pytest.importorskip(module, reason=f"{module} is not installed"), kind)
    for name in names:
        assert parameters(getattr(fake, name)) == parameters(getattr(real, name))


@pytest.mark.parametrize(
    ("fake", "place"),
    [
        (fake_slime.Sample, "slime.utils.types:Sample"),
        (fake_verifiers.TaskData, "verifiers.v1:TaskData"),
        (fake_verifiers.TasksetConfig, "verifiers.v1:TasksetConfig"),
        (fake_nemo_rl.EnvironmentReturn, "nemo_rl.environments.interfaces:EnvironmentReturn"),
    ],
)
def test_a_fake_has_no_field_that_its_trainer_lacks(fake: Any, place: str) -> None:
    module, _, kind = place.partition(":")
    real = getattr(pytest.importorskip(module, reason=f"{module} is not installed"), kind)
    assert set(fake.__annotations__) <= set(real.__annotations__)

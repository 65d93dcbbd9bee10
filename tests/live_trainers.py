"""The loops of four trainers with our live adapters, over fakes that have the trainers' signatures.

A `Driver` is a trainer, and a loop is one process of it with 4 prompts per step. `steps` trains and saves after
each step, `ask_ahead` takes the prompts of two steps without outcomes, `end` ends it, `trained` has the ids.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import fake_nemo_rl
import fake_slime
import fake_trinity
import fake_verifiers
from adapters import Table, adapter, exported, reward_of
from gaincurate.schedule.run import Run


class Driver(ABC):
    """One trainer."""

    module: str
    fake: Any
    rollouts = 2
    """Lines of outcomes a prompt."""
    resumes_unseen = False
    """Whether its adapter cannot tell a resume from a start."""
    where: str
    """The setting that gives the run."""
    ahead: str
    """The end of the error where outcomes are missing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.live = self.adapter()

    def adapter(self) -> Any:
        return adapter(self.monkeypatch, self.module, self.fake.modules())

    @abstractmethod
    def begin(self, run: Run | None, folder: Path, start: int = 0) -> Any:
        """A loop: one process, from its start or from what an earlier one saved after `start` steps."""


# NeMo-RL.


class Nemo(Driver):
    module = "nemo_rl.live"
    where = "the environment variable GAINCURATE_RUN"
    ahead = "The environment's step() has to call gaincurate.trainers.nemo_rl.report."
    fake = fake_nemo_rl

    def batches(self, run: Run | None, checkpoints: Path | None, table: Table, data: Path | None) -> Any:
        given = {"RUN": run and run.folder, "CHECKPOINTS": checkpoints, "DATA": data}
        for name, value in given.items():
            if value is None:
                self.monkeypatch.delenv(f"GAINCURATE_{name}", raising=False)
            else:
                self.monkeypatch.setenv(f"GAINCURATE_{name}", str(value))
        module = self.adapter()
        loader = fake_nemo_rl.StatefulDataLoader(fake_nemo_rl.AllTaskProcessedDataset(table), batch_size=4)
        steps = sorted(checkpoints.glob("step_*")) if checkpoints else []
        if steps:  # as load_dataloader_state does, before the wrapper is made
            loader.load_state_dict(torch.load(steps[-1] / "train_dataloader_the-task.pt"))
        named = {"custom_dataloader": module.next_batch}
        return fake_nemo_rl.MultipleDataloaderWrapper(4, named, {"the-task": loader}), module

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


class NemoLoop:
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
        self.module.next_batch.live.close()


# slime.


class Slime(Driver):
    module = "slime.live"
    where = "--prompt-data FOLDER"
    ahead = "slime reports where a rollout ends; the prompts of a group that it lost have no outcomes."
    fake = fake_slime

    def begin(self, run: Run | None, folder: Path, start: int = 0, **given: Any) -> SlimeLoop:
        save = {"save": str(folder), "load": str(folder)}
        return SlimeLoop(self.live, fake_slime.arguments(run and run.folder, **save, **given), start)


class SlimeLoop:
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
    fake = fake_trinity

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.saved = dict[int, Any]()

    def tasks(self, run: Run | None, folder: Path, saved: Any, columns: Any = None) -> Any:
        chosen = (self.live.RunSelector, run and str(run.folder))
        table = Table(columns or exported(run or Run(folder / "run")))
        return fake_trinity.TasksetScheduler(saved, chosen, table, 4)

    def begin(self, run: Run | None, folder: Path, start: int = 0, interval: int = 1) -> TrinityLoop:
        tasks = self.tasks(run, folder, self.saved[start] if start else {})
        return TrinityLoop(tasks, exported(run)["gc_id"] if run else [], start, interval, self.saved)


class TrinityLoop:
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
        self.tasks.selector.live.close()


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
    fake = fake_verifiers

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        module = self.live
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


class PrimeLoop:
    """Dispatches `ahead` groups before the oldest one comes back."""

    def __init__(self, prime: Prime, taskset: Any, cursor: int, ahead: int) -> None:
        self.prime, self.ahead, self.tasks = prime, ahead, iter(taskset)
        self.sampler = fake_verifiers.StandardSampler(self.tasks)
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

"""prime-rl's orchestrator on a run: against a fake with its signatures, and where they are installed, its own
sampler and verifiers' classes."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import fake_verifiers
import runs
from adapters import adapter, parameters, reward_of
from gaincurate.errors import InputError, OutcomeError
from gaincurate.schedule.run import Run

SAMPLER = "prime_rl.orchestrator.curriculum.samplers.standard"


class Trace:
    """As much of verifiers' Trace as scoring touches."""

    def __init__(self, number: str) -> None:
        self.id, self.metrics, self.rewards = number, dict[str, Any](), dict[str, Any]()

    def record_reward(self, name: str, value: float, weight: float = 1.0) -> None:
        self.rewards[name] = value * weight

    @property
    def reward(self) -> float:
        return float(sum(self.rewards.values()))


class Prime:
    """An environment package of a user's, with verifiers and prime-rl's sampler, fake or their own."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if kind == "real":
            pytest.importorskip("verifiers.v1", reason="verifiers is not installed")
            self.sampler = pytest.importorskip(SAMPLER, reason="prime-rl is not installed").StandardSampler
        else:
            self.sampler = fake_verifiers.StandardSampler
        (module,) = adapter(
            monkeypatch, ["prime_rl.live"], {} if kind == "real" else fake_verifiers.modules()
        )
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

        self.data: Any = Data
        self.task: Any = MathTask
        self.set: Any = MathTaskset
        self.config: Any = config

    def taskset(self, run: Run) -> Any:
        return self.set(self.config(run=str(run.folder)))


@pytest.fixture(params=["fake", "real"])
def prime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Prime:
    return Prime(request.param, monkeypatch)


class Orchestrator:
    """What prime-rl does with a taskset: dispatches `ahead` groups before the oldest one comes back."""

    def __init__(self, prime: Prime, run: Run, ahead: int = 0, cursor: int | None = None) -> None:
        self.prime, self.ahead = prime, ahead
        self.tasks = iter(prime.taskset(run))
        self.sampler = prime.sampler(self.tasks)
        if cursor is not None:
            self.sampler.load_state_dict({"cursor": cursor})
        self.inflight: list[Any] = []
        self.trained: list[str] = []

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

    def end(self) -> None:
        self.tasks.close()


def planned(run: Run) -> list[str]:
    return [gc_id for round_ in range(run.config.rounds) for gc_id in run.ids(round_)]


def lines_of(run: Run, round_: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]


def test_three_rounds_are_dispatched_as_planned_and_behind_them_the_stream_goes_on(
    prime: Prime, tmp_path: Path
) -> None:
    run = runs.begin(tmp_path, rounds=3)
    one = Orchestrator(prime, run)
    one.groups(24)
    assert one.trained == planned(run)
    for round_ in range(3):
        found = [(x["gc_id"], x["round"], x["reward"], x["step"]) for x in lines_of(run, round_)]
        expected = [
            (gc_id, round_, reward_of(gc_id), 8 * round_ + k) for k, gc_id in enumerate(run.ids(round_))
        ]
        assert found == [one for one in expected for _ in range(2)]
    one.groups(9)
    assert one.trained[24:] == [*run.ids(2), run.ids(2)[0]]
    assert len(lines_of(run, 2)) == 16  # what comes behind the last round is not reported
    assert prime.taskset(run).INFINITE


@pytest.mark.parametrize(("cursor", "killed_at"), [(3, 6), (5, 5), (9, 14), (16, 17), (6, 20), (13, 24)])
def test_resumed_in_the_middle_of_a_round_the_plans_are_those_of_a_run_that_never_stopped(
    prime: Prime, tmp_path: Path, cursor: int, killed_at: int
) -> None:
    whole = runs.begin(tmp_path / "whole", rounds=4)
    Orchestrator(prime, whole).groups(32)
    run = runs.begin(tmp_path / "cut", rounds=4)
    killed = Orchestrator(prime, run)
    killed.groups(killed_at)
    killed.end()
    again = Orchestrator(prime, run, cursor=cursor)
    again.groups(32 - cursor)
    assert killed.trained[:cursor] + again.trained == planned(run)
    assert runs.plans(run) == runs.plans(whole)
    assert [run.plan(round_)["inputs"]["late"] for round_ in (1, 2, 3)] == [0, 0, 0]


def test_the_fast_forward_changes_nothing(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    killed = Orchestrator(prime, run)
    killed.groups(16)
    killed.end()

    def seen() -> dict[str, bytes]:
        paths = [path for path in run.folder.rglob("*") if path.is_file() and path.name != "execution.jsonl"]
        return {str(path): path.read_bytes() for path in paths}

    before = seen()
    again = Orchestrator(prime, run, cursor=16)  # a whole round, whose outcomes are in, is not turned
    assert seen() == before
    assert run.state["round"] == 1
    again.groups(1)
    assert run.state["round"] == 2


def test_dispatched_ahead_a_round_says_what_would_do(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    with pytest.raises(OutcomeError) as caught:
        Orchestrator(prime, run, ahead=2).groups(8)
    assert str(caught.value) == (
        f"round 0 has outcomes for 6 of its 8 prompts and 100% of them are needed (--min-coverage); "
        f"{run.outcomes(0)} lacks {', '.join(run.ids(0)[6:])}. prime-rl dispatches ahead and drops groups, so a "
        "round hardly ever comes back whole: about max_inflight / group_size of its prompts are on their way when "
        "the next one begins. A run that is started with --min-coverage 0.75 goes on here, and what comes later "
        "counts as late."
    )


def test_with_that_coverage_it_goes_on_and_the_rest_is_late(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, min_coverage=0.75, rounds=4)
    one = Orchestrator(prime, run, ahead=2)
    one.groups(20)
    assert one.trained == [*run.ids(0), *run.ids(1), *run.ids(2)[:4]]
    late = [line["gc_id"] for line in lines_of(run, 1) if line["round"] == 0]
    assert late == [gc_id for gc_id in run.ids(0)[6:] for _ in range(2)]
    assert run.plan(2)["inputs"]["late"] == 2


def test_the_key_is_the_prompts_and_no_score_is_in_the_data(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rows=8, with_scores=True, strategy="uniform")
    one = Orchestrator(prime, run)
    tasks = []
    for _ in range(16):
        tasks.append(next(one.sampler))
        one.serve(tasks[-1])
    by_round = [{task.key: task for task in tasks[:8]}, {task.key: task for task in tasks[8:]}]
    assert set(by_round[0]) == set(by_round[1]) == set(run.ids(0))
    fields = {"gc_id", "gc_round", "gc_attempt", "gc_run"}
    assert {name for name in type(tasks[0].data).model_fields if name.startswith("gc_")} == fields


def test_a_rollout_that_cannot_be_scored_is_reported_as_unjudged(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    task = next(Orchestrator(prime, run).sampler)
    broken = prime.task(task.data.model_copy(update={"answer": "question 999"}))
    with pytest.raises(Exception, match="the judge is gone"):
        asyncio.run(broken.score(Trace("a")))
    assert [line["reward"] for line in lines_of(run, 0)] == [None]


def test_a_bad_set_up_is_said(prime: Prime, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="^which run to follow was not said: give its folder by the taskset's `ru"
    ):
        next(iter(prime.set(prime.config())))
    run = runs.begin(tmp_path, rescore={"what": "round"})
    with pytest.raises(
        InputError, match=r"\(--rescore round\), which is not done live with prime-rl. Start the"
    ):
        next(iter(prime.taskset(run)))


def test_without_verifiers_the_adapter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    with pytest.raises(
        InputError, match=r"^this adapter is for verifiers a60a606ec \(2026-08-21\) and works insi"
    ):
        adapter(monkeypatch, ["prime_rl.live"], {})


def test_the_mixins_have_the_signatures_of_their_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    (module,) = adapter(monkeypatch, ["prime_rl.live"], fake_verifiers.modules())
    assert parameters(module.RunTask.score) == parameters(fake_verifiers.Task.score)
    assert parameters(module.RunTaskset.load) == parameters(fake_verifiers.Taskset.load)
    assert isinstance(module.RunTask.key, property)
    assert isinstance(fake_verifiers.Task.key, property)
    assert hasattr(fake_verifiers.Taskset, "INFINITE")


def test_the_fake_has_the_signatures_of_verifiers_and_prime_rl() -> None:
    vf = pytest.importorskip("verifiers.v1", reason="verifiers is not installed")
    sampler = pytest.importorskip(SAMPLER, reason="prime-rl is not installed").StandardSampler
    for name in ("__init__", "score"):
        assert parameters(getattr(fake_verifiers.Task, name)) == parameters(getattr(vf.Task, name))
    assert isinstance(vf.Task.key, property)
    for name in ("__init__", "load", "__iter__"):
        assert parameters(getattr(fake_verifiers.Taskset, name)) == parameters(getattr(vf.Taskset, name))
    assert vf.Taskset.INFINITE is False
    for fake, real in (
        (fake_verifiers.TaskData, vf.TaskData),
        (fake_verifiers.TasksetConfig, vf.TasksetConfig),
    ):
        assert set(fake.model_fields) <= set(real.model_fields)
    for name in ("__init__", "__next__", "state_dict", "load_state_dict"):
        assert parameters(getattr(fake_verifiers.StandardSampler, name)) == parameters(getattr(sampler, name))

"""The tap on reward functions: what two processes heard, put together, is what was rewarded."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import runpy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl.trainer.utils

from gaincurate.errors import InputError
from gaincurate.trainers.doctor.findings import refuse
from gaincurate.trainers.trl import rewards
from gaincurate.trainers.trl.batching import BatchShape
from gaincurate.trainers.trl.checks import unheard
from gaincurate.trainers.trl.rewards import Tap

SHAPE = BatchShape(prompts=3, group=4, repeats=1, accumulation=1)


def trainer(*functions: Any, weights: list[float] | None = None) -> Any:
    return SimpleNamespace(
        reward_funcs=list(functions),
        reward_func_names=[getattr(f, "__name__", type(f).__name__) for f in functions],
        reward_weights=torch.tensor(weights or [1.0] * len(functions)),
        evaluation_loop=lambda evaluates: evaluates(),
    )


def right(completions: list[str], **columns: Any) -> list[Any]:
    return [float(text == "yes") for text in completions]


def short(completions: list[str], **columns: Any) -> list[Any]:
    return [None if not text else float(len(text) < 3) for text in completions]


def tap(made: Any, rank: int = 0, processes: int = 1, **options: Any) -> Tap:
    shape = BatchShape(SHAPE.prompts, SHAPE.group, 1, 1, processes, rank)
    return Tap(made, shape, **({"outcome": None, "correct": None} | options))


def call(made: Any, ids: list[str], texts: list[str], logged: list[Any] | None = None) -> list[Any]:
    """As TRL calls its reward functions: the synchronous ones, then the others together."""
    columns: dict[str, Any] = {"gc_id": ids, "completion_ids": [[1] * len(text) for text in texts]}
    columns["log_metric"] = lambda name, value: None if logged is None else logged.append((name, value))
    found = []
    for function in made.reward_funcs:
        result = function(completions=texts, **columns)
        found.append(asyncio.run(result) if asyncio.iscoroutine(result) else result)
    return found


def test_two_processes_together_tell_what_one_would() -> None:
    ids = [gc_id for gc_id in "abc" for _ in range(4)]
    texts = ["yes", "no", "", "yes please"] * 3
    whole = trainer(right, short, weights=[1.0, 0.5])
    listening = tap(whole)
    call(whole, ids, texts)
    lines = listening.drain(7)
    parts = []
    for rank in range(2):
        made = trainer(right, short, weights=[1.0, 0.5])
        heard = tap(made, rank, 2)
        call(made, ids[6 * rank : 6 * rank + 6], texts[6 * rank : 6 * rank + 6])
        parts += heard.drain(7) or []
    assert parts == lines
    rewards = {"yes": 1.0, "no": 0.5, "": 0.0, "yes please": 0.0}
    for place, (line, gc_id, text) in enumerate(zip(lines or [], ids, texts, strict=True)):
        about = {"gc_id": gc_id, "reward": rewards[text], "step": 7, "sample": place % 4, "tokens": len(text)}
        assert line == about
    assert listening.drain(8) is None  # each is told once


async def later(completions: list[str], **columns: Any) -> list[float]:
    return [0.5 for _ in completions]


class Judge:
    __name__ = "judge"

    async def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        return [0.25 for _ in completions]


def lazy(completions: list[str], **columns: Any) -> Any:
    return map(len, completions)


def nan(completions: list[str], **columns: Any) -> list[float]:
    return [float("nan"), 0.25]


def always(value: float) -> Any:
    def given(completions: list[str], **columns: Any) -> list[float]:
        return [value] * len(completions)

    given.__name__ = str(value)
    return given


@pytest.mark.parametrize(
    ("functions", "weights", "options", "texts", "outcomes"),
    [
        ((short,), None, {}, ["", "no"], [(None, None), (1.0, None)]),  # one that nobody could judge
        ((nan,), None, {}, ["x", "y"], [(None, None), (0.25, None)]),
        ((right, short), None, {"outcome": ["short"], "correct": "right"}, ["yes", "no"], [(0.0, 1.0), (1.0, 0.0)]),
        ((right, short), [0.3, 0.7], {}, ["no"], [(0.7, None)]),  # and not the nearest float32
        ((later, right, Judge()), None, {}, ["yes"], [(1.75, None)]),
        ((lazy,), None, {}, ["x", "yz"], [(1.0, None), (2.0, None)]),
        # Without a finite sum: infinite, which `report` refuses by name.
        ((always(math.inf), always(-math.inf)), None, {}, ["yes"], [(math.inf, None)]),
        ((always(1.7e308), always(1.6e308)), None, {}, ["yes"], [(math.inf, None)]),
    ],
)  # fmt: skip
def test_rewards_are_summed_as_trl_weighs_them(
    functions: Any, weights: Any, options: dict[str, Any], texts: list[str], outcomes: Any
) -> None:
    made = trainer(*functions, weights=weights)
    listening = tap(made, **options)
    call(made, ["a"] * len(texts), texts)
    lines = listening.drain(1) or []
    assert [(line["reward"], line.get("correct")) for line in lines] == outcomes


def test_the_functions_do_what_they_did_and_the_users_list_is_let_be() -> None:
    mine = [right, short, later]
    made = trainer()
    made.reward_funcs, made.reward_func_names = mine, ["right", "short", "later"]
    made.reward_weights = torch.ones(3)
    tap(made)
    assert call(made, ["a"] * 2, ["yes", ""]) == [[1.0, 0.0], [0.0, None], [0.5, 0.5]]
    # As TRL 1.0 asks; since 1.14 it asks for their calls too.
    assert [inspect.iscoroutinefunction(f) for f in made.reward_funcs] == [False, False, True]
    assert mine == [right, short, later]


def test_nothing_is_imported_that_trl_has_only_since_1_14(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("get_callable_name", "is_async_callable"):
        monkeypatch.delattr(trl.trainer.utils, name)
    assert "Tap" in runpy.run_path(rewards.__file__)


def test_several_generations_in_one_step_are_all_told() -> None:
    made = trainer(right)
    listening = tap(made)
    call(made, ["a"], ["yes"])
    call(made, ["b"], ["no"])
    assert [(line["gc_id"], line["reward"]) for line in listening.drain(2) or []] == [("a", 1.0), ("b", 0.0)]


def test_an_evaluation_is_not_an_outcome() -> None:
    made = trainer(right)
    listening = tap(made)
    made.evaluation_loop(lambda: call(made, ["a"], ["yes"]))
    assert listening.drain(1) is None


def test_metrics_are_logged_once_a_generation() -> None:
    made, logged = trainer(right, short), list[tuple[str, float]]()
    tap(made).metrics = {"mu": 3.5, "round": 2.0}
    call(made, ["a"], ["yes"], logged)
    assert logged == [("gaincurate/mu", 3.5), ("gaincurate/round", 2.0)]


def test_what_was_heard_of_a_step_that_did_not_end_is_dropped() -> None:
    def failing(**columns: Any) -> list[float]:
        raise OSError("the judge is gone")

    made = trainer(right, failing)
    listening = tap(made)
    with pytest.raises(OSError, match="judge"):
        call(made, ["a"], ["yes"])
    listening.forget()
    assert listening.drain(1) is None


def test_rows_without_ids_are_refused() -> None:
    made = trainer(right)
    tap(made)
    with pytest.raises(InputError, match="^rows have no gc_id: use"):
        made.reward_funcs[0](completions=["yes"], completion_ids=[[1]])


class Model:
    def parameters(self) -> None: ...
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("functions", "outcome", "sentence"),
    [
        ((right, Model()), None, "'Model' is a reward model, whose rewards cannot be recorded. Name Python"),
        ((right,), "short2", "the reward function 'short2' does not exist; the trainer has right."),
        ((right,), [], "outcome=[] names no reward function. Leave it out for all of them"),
        ((right, short), ["long"], "the reward function 'long' does not exist; the trainer has right,"),
        ((right, right), None, "the reward function 'right' occurs more than once; the trainer has"),
    ],
)
def test_what_cannot_be_heard_is_refused(functions: Any, outcome: Any, sentence: str) -> None:
    refuse(unheard(trainer(right, Model()), ["right"], None))
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        refuse(unheard(trainer(*functions), outcome, None))

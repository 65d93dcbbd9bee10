"""GRPO on two processes under gloo: re-scored or with replay, killed in the middle of a round, resumed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import arithmetic
import replay_run
import runs
import tiny
import trl_pair
from gaincurate.schedule.run import Run

ROUNDS, BUDGET, STEPS = 4, 16, 4  # four steps a round: four prompts each, two rollouts of each prompt


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and a set scored with it."""
    import gaincurate

    folder = tmp_path_factory.mktemp("pair")
    tiny.save_model(folder / "model")
    data = tiny.write_jsonl(folder / "prompts.jsonl", tiny.questions(40))
    gaincurate.score(str(data), model=str(folder / "model"), out=folder / "scored", dtype="float32")
    return folder


def begin(base: Path, name: str) -> Run:
    places: dict[str, Any] = {"scored": base / "scored", "run": base / name, "model": str(base / "model")}
    rescore = {"what": "window", "every": 2, "probe": 0}
    sizes: dict[str, Any] = {"budget": BUDGET, "rounds": ROUNDS, "align_to": 4, "options": {"sigma": "0.3N"}}
    return runs.begin(base, **places, **sizes, rescore=rescore)


def trained(output: Path) -> dict[int, Counter[str]]:
    """What was trained on at each step of the history that survived, on both processes together."""
    newest: dict[tuple[int, int], list[str]] = {}
    for rank in range(2):
        for text in (output / f"trained-{rank}.jsonl").read_text().splitlines():
            line = json.loads(text)
            newest[rank, line["step"]] = line["ids"]
    found: dict[int, Counter[str]] = {}
    for (_, step), ids in newest.items():
        found.setdefault(step, Counter()).update(ids)
    return found


@pytest.mark.slow
def test_killed_in_a_round_and_resumed_it_is_as_if_nothing_had_happened(base: Path) -> None:
    options = [f"max_steps={STEPS * ROUNDS}", "save_steps=2", "save_total_limit=1"]
    whole, cut = begin(base, "whole"), begin(base, "cut")
    model = base / "model"
    assert trl_pair.launch(model, whole.folder, base / "whole-out", *options) == 0
    output = base / "cut-out"
    assert trl_pair.launch(model, cut.folder, output, *options, "kill=11") == -9
    assert cut.state["round"] == 2  # re-scored after round 1
    assert [p.name for p in output.glob("checkpoint-*")] == ["checkpoint-10"]
    assert trl_pair.launch(model, cut.folder, output, *options) == 0, (output / "log-0.txt").read_text()[
        -2000:
    ]

    steps = trained(output)
    assert sorted(steps) == list(range(1, STEPS * ROUNDS + 1))
    for round_ in range(ROUNDS):
        seen = sum((steps[STEPS * round_ + k + 1] for k in range(STEPS)), Counter[str]())
        assert seen == Counter(dict.fromkeys(cut.ids(round_), 2))
    assert runs.plans(cut) == runs.plans(whole)
    assert cut.plan(2)["inputs"]["rescored"] == "scores/00001"
    assert cut.state["finished"]
    assert not (cut.folder / "undone").exists()
    accuracy = [run.state["inputs"]["accuracy"] for run in (whole, cut)]
    assert accuracy[0] == accuracy[1]


@pytest.mark.slow
def test_what_the_main_process_refuses_ends_both(base: Path) -> None:
    run = begin(base, "refused")
    with run.outcomes(0).open("a") as file:
        file.write('{"gc_id": "of no round", "reward": 1, "round": 0}\n')
    output = base / "refused-out"
    options = [f"max_steps={STEPS * ROUNDS}", "save_steps=4"]
    assert trl_pair.launch(base / "model", run.folder, output, *options) != 0
    for rank in range(2):
        said = (output / f"log-{rank}.txt").read_text()
        assert "OutcomeError: " in said
        assert "'of no round' is not among the prompts of round 0." in said


# Replay.

OPTIONS = ["capacity=12", "max_steps=8", 'save_strategy="steps"', "save_steps=2", "save_total_limit=1"]


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sums")
    arithmetic.save_model(folder / "model", 120, largest=replay_run.LARGEST)
    return folder


def launch(base: Path, name: str, *options: str, expected: int = 0) -> None:
    output, program = base / f"{name}-out", Path(replay_run.__file__)
    done = trl_pair.launch(base / "model", base / name, output, *OPTIONS, *options, program=program)
    assert done == expected, (output / "log-0.txt").read_text()[-3000:]


def told(base: Path, name: str) -> tuple[list[replay_run.Line], list[float]]:
    """The generations of all processes together, and the losses."""
    found = [json.loads((base / f"{name}-out/told-{rank}.json").read_text()) for rank in range(2)]
    lines = []
    for parts in zip(*(one["lines"] for one in found), strict=True):
        for key in ("step", "before", "replayed", "buffer"):
            assert all(part[key] == parts[0][key] for part in parts)  # one buffer, on every process
        assert len({part["rows"] for part in parts}) == 1
        whole: dict[str, Any] = dict(parts[0])
        for key in ("fresh", "rewards"):
            whole[key] = [value for part in parts for value in part[key]]
        for key in ("rows", "marked", "tokens"):
            whole[key] = sum(part[key] for part in parts)
        lines.append(replay_run.Line(**whole))
    return lines, [entry["loss"] for entry in found[0]["log"] if "loss" in entry]


@pytest.mark.slow
def test_replay_killed_and_resumed_has_the_same_buffer_and_losses(sums: Path) -> None:
    runs = [arithmetic.begin(sums, name=name, rounds=4) for name in ("whole", "cut")]
    launch(sums, "whole")
    launch(sums, "cut", "kill=5", expected=-9)
    assert [path.name for path in (sums / "cut-out").glob("checkpoint-*")] == ["checkpoint-4"]
    launch(sums, "cut")
    lines, losses = told(sums, "whole")
    assert replay_run.audit(lines, batch=8, fresh=4, group=4, capacity=12) >= 4
    again, after = told(sums, "cut")
    assert again == lines[4:]
    assert after == losses
    assert len(losses) == 8
    for run in runs:
        assert run.state["finished"]
        generated = [gc_id for line in lines for gc_id in line.fresh]
        assert generated == [gc_id for round_ in range(4) for gc_id in run.ids(round_) for _ in range(4)]

"""GRPO on two processes under gloo: re-scored once, killed in the middle of a round, resumed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import runs
import tiny
import trl_pair
from gaincurate.schedule.config import RescoreConfig, ScheduleConfig
from gaincurate.schedule.rounds import start
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
    return start(
        ScheduleConfig(
            scored=base / "scored",
            run=base / name,
            strategy="gain-rl",
            options={"sigma": "0.3N"},
            budget=BUDGET,
            rounds=ROUNDS,
            align_to=4,
            rescore=RescoreConfig(what="window", every=2, probe=0),
        )
    )


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

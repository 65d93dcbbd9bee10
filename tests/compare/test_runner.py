"""Comparisons with real training runs of a tiny model, in processes of their own, also killed or planted."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tiny
from compare_command import kill_when_there, toml
from compare_world import TRAIN
from gaincurate.compare.arm import main
from gaincurate.compare.config import Comparison, checked_comparison
from gaincurate.compare.results import FACTS, RESULTS, Tables, read_tables
from gaincurate.compare.runner import JOBS, compare, environment
from gaincurate.core.artifact import Json
from gaincurate.core.progress import Progress
from gaincurate.errors import InputError, OutputError, TrainerError
from gaincurate.schedule.run import Run
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset

pytest.importorskip("trl")

ROOT = Path(__file__).parent.parent
DOTS = {"name": "dots", "strategy": "dots", "options": {"references": 4}, "replay": {"fresh_share": 0.5}}


@pytest.fixture(scope="module")
def sets_of(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    rows = tiny.questions(30)
    for name, part in (("scored", rows[:22]), ("heldout", rows[22:])):
        data = tiny.write_jsonl(folder / f"{name}.jsonl", part)
        config: Json = {"data": str(data), "model": str(tiny_model), "out": folder / name, "threads": 1}
        score_dataset(ScoreConfig(**config, signals=("angle", "embedding")))
    return folder


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    sets = {name: str(folder / name) for name in ("scored", "heldout")}
    sizes = {"budget_tokens": 150, "marks": 2, "step_prompts": 4, "round_steps": 2, "group": 2}
    more = {"max_tokens": 4, "prefill_weight": 0.01, "seeds": [0], "threads": 1, "train": TRAIN}
    more |= {"verifier": "compare_world:even", "evaluation": {"samples": 2}, "arms": [DOTS]}
    return {**sets, **sizes, **more, **changes}


def asked(folder: Path, **changes: Any) -> Comparison:
    return checked_comparison(settings(folder, **changes))


@pytest.fixture(scope="module")
def compared(sets_of: Path) -> Path:
    """A comparison that nothing came between."""
    with contextlib.chdir(ROOT):
        compare(asked(sets_of), sets_of / "out", workers=2)
    return sets_of / "out"


def by_job(table: pa.Table) -> list[tuple[tuple[str, int], list[Json]]]:
    by_key = itertools.groupby(table.to_pylist(), lambda row: (row["arm"], row["seed"]))
    return [(key, list(rows)) for key, rows in by_key]


@pytest.mark.slow
def test_every_arm_is_trained_and_judged(compared: Path) -> None:
    found = read_tables(compared / RESULTS)
    names = ["uniform", "length", "dots", "uniform-replay"]
    assert found["evaluations"].column("arm").unique().to_pylist() == names
    assert len(found["evaluations"]) == 4 * 3 * 8
    assert set(found["evaluations"].column("samples").to_pylist()) == {2}
    starts = [[r["right"] for r in rows if r["mark"] == 0] for _, rows in by_job(found["evaluations"])]
    assert starts[0] == starts[1] == starts[2] == starts[3]


@pytest.mark.slow
def test_tokens_add_up_to_the_trainers_own_counter(compared: Path) -> None:
    found = read_tables(compared / RESULTS)
    for key, steps in by_job(found["steps"]):
        assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
        counted = itertools.accumulate(row["prompt_tokens"] + row["completion_tokens"] for row in steps)
        assert list(counted) == [row["trainer_tokens"] for row in steps], key
    trained = {key: sum(row["completion_tokens"] for row in steps) for key, steps in by_job(found["steps"])}
    for key, marks in by_job(found["marks"]):
        for row in marks:
            parts = sum(row[name] for name in ("scoring", "rescoring", "references", "training"))
            assert row["tokens"] == parts >= row["asked"]
        assert marks[-1]["training"] == trained[key]


@pytest.mark.slow
def test_each_arm_pays_for_what_it_used(compared: Path, sets_of: Path) -> None:
    last = {key[0]: rows[-1] for key, rows in by_job(read_tables(compared / RESULTS)["marks"])}
    assert [last[arm]["scoring"] + last[arm]["references"] for arm in ("uniform", "length")] == [0, 0]
    run = Run(compared / JOBS / "dots" / "seed-0" / "run")
    tokens = run.scored.column("gc_prompt_tokens").to_pylist()
    assert last["dots"]["scoring"] == round(sum(tokens) * 0.01)
    cost = json.loads((compared / JOBS / "dots" / "seed-0" / "marks" / "1" / "cost.json").read_bytes())
    trained = cost["steps"][-1]["gaincurate/step"]["round"]  # one planned behind the last mark is of no use
    told = [run.plan(round_)["references"]["completion_tokens"] for round_ in range(trained + 1)]
    assert last["dots"]["references"] == sum(told) >= 4 * 2 * 4


@pytest.mark.slow
def test_an_arm_replays(compared: Path) -> None:
    steps = dict(by_job(read_tables(compared / RESULTS)["steps"]))
    assert {row["rollouts"] for row in steps["dots", 0]} == {4}
    assert {row["rollouts"] for row in steps["uniform", 0]} == {8}
    assert {row["replayed"] for row in steps["dots", 0]} <= {0, 4}
    assert any(row["replayed"] for row in steps["dots", 0])
    assert not any(row["replayed"] for row in steps["uniform", 0])
    assert {row["rollouts"] for row in steps["uniform-replay", 0]} == {4}
    assert any(row["replayed"] for row in steps["uniform-replay", 0])


@pytest.mark.slow
def test_again_does_nothing(compared: Path, sets_of: Path) -> None:
    begun = list[str]()

    class Heard(Progress):
        def note(self, text: str) -> None:
            begun.append(text)

    before = read_tables(compared / RESULTS)
    compare(asked(sets_of), compared, Heard())
    assert begun == []
    assert same(before, read_tables(compared / RESULTS), seconds=True)


def same(first: Tables, second: Tables, *, seconds: bool = False) -> bool:
    """Whether all numbers are, but for the clock's."""

    def plain(table: pa.Table) -> pa.Table:
        return table if seconds or "seconds" not in table.column_names else table.drop(["seconds"])

    return all(plain(table).equals(plain(second[name])) for name, table in first.items())


@pytest.mark.slow
def test_killed_at_any_place_it_ends_with_the_same_numbers(
    compared: Path, sets_of: Path, tmp_path: Path
) -> None:
    """Killed when a checkpoint, a judgement and references had just appeared."""
    config, out = tmp_path / "c.toml", tmp_path / "out"
    config.write_text(toml(settings(sets_of)))
    jobs = out / JOBS
    for place in (
        jobs / "uniform/seed-0/trainer/checkpoint-2",
        jobs / "uniform/seed-0/marks/1/rollouts",
        jobs / "dots/seed-0/run/difficulty/00001/references.json",
    ):
        kill_when_there(place, ["compare", str(config), "-o", str(out), "--workers", "2"])
    with contextlib.chdir(ROOT):
        compare(asked(sets_of), out)
    assert same(read_tables(compared / RESULTS), read_tables(out / RESULTS))


@pytest.mark.slow
def test_killed_while_it_tunes_it_chooses_the_same(sets_of: Path, tmp_path: Path) -> None:
    """Killed when the mark of its second setting had just appeared; `test_tune.py` has the other places."""
    table = {"learning_rate": [1, 4], "step_prompts": [0.5], "group": [1], "seeds": [3]}
    given = settings(sets_of, tune=table, arms=[], marks=1)
    config, out = tmp_path / "c.toml", tmp_path / "out"
    config.write_text(toml(given))
    with contextlib.chdir(ROOT):
        compare(checked_comparison(given), tmp_path / "whole", tune=True)
        place = out / f"tune/uniform-at-2x{checked_comparison(given).group}-lr-0.004/seed-3/marks/0/cost.json"
        kill_when_there(place, ["compare", str(config), "-o", str(out), "--tune"])
        compare(checked_comparison(given), out)
    first, second = (json.loads((at / "tune/tune.json").read_bytes()) for at in (tmp_path / "whole", out))
    assert first == second
    assert same(read_tables(tmp_path / "whole" / RESULTS), read_tables(out / RESULTS))
    facts = json.loads((out / FACTS).read_bytes())
    assert facts["comparison"]["step_prompts"] == 2
    assert facts["comparison"]["train"]["learning_rate"] == first["chosen"]["learning_rate"]


@pytest.mark.slow
def test_arms_may_be_left_out_and_come_back(compared: Path, sets_of: Path, tmp_path: Path) -> None:
    whole, out = read_tables(compared / RESULTS), tmp_path / "out"
    shutil.copytree(compared, out)
    compare(asked(sets_of, arms=[]), out)
    assert read_tables(out / RESULTS)["marks"].column("arm").unique().to_pylist() == ["uniform", "length"]
    other = {**DOTS, "options": {"references": 5}}
    with pytest.raises(OutputError, match=r"another comparison: arms\.dots\.options\.references differ\."):
        compare(asked(sets_of, arms=[other]), out)
    compare(asked(sets_of), out)
    assert same(whole, read_tables(out / RESULTS), seconds=True)


@pytest.mark.slow
def test_judging_goes_on_where_weights_are_gone(compared: Path) -> None:
    job = compared / JOBS / "uniform" / "seed-0"
    assert not list((job / "marks" / "0").glob("*.safetensors"))
    before = (job / "marks" / "1" / "rollouts" / "manifest.json").read_bytes()
    (job / "marks" / "1" / "rollouts" / "manifest.json").unlink()
    with contextlib.chdir(ROOT):
        main(job)
    assert (job / "marks" / "1" / "rollouts" / "manifest.json").read_bytes() == before


def test_prompts_in_both_sets_are_refused(sets_of: Path, tmp_path: Path) -> None:
    scored = sets_of / "scored"
    with pytest.raises(InputError, match=rf"^22 of the 22 prompts of {scored} are in {scored} too, such as "):
        compare(asked(sets_of, heldout=str(scored)), tmp_path / "out")


@pytest.mark.slow
def test_a_trainer_that_fails_is_named(
    sets_of: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(TrainerError) as error:
        compare(asked(sets_of, train={"optim": "no such optimiser"}, arms=[]), tmp_path / "out")
    log = tmp_path / "out" / JOBS / "uniform" / "seed-0" / "trainer.log"
    said = f"uniform, seed 0: the trainer failed with exit code 1; its log is {log} and ends: "
    assert str(error.value).startswith(said)


def test_what_a_process_is_told_of_the_machine(sets_of: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = asked(sets_of)
    told = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment(one, 0, 1) == told
    assert environment(one, 1, 2) == told | {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [environment(one, slot, 3)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["4", "7", "4"]


@pytest.mark.slow
def test_who_is_told_what_teaches_wins_and_who_sees_only_what_does_not_loses(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "compare_planted.py", tmp_path / "world", "0", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])["planted"]
    assert found["told"]["difference"]["answer"] == "better"
    assert found["hopeless"]["difference"]["answer"] == "worse"
    assert found["hopeless"]["training"]["effective"] == 0

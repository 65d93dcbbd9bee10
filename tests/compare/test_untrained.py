"""`gaincurate compare` with the training left out: what may change, what `--dry-run` counts, what `--tune` chooses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from command import run, tree
from compare_command import small_sets, toml
from gaincurate.compare.arm import COST, MARKS, PROGRESS, ROLLOUTS, ArmJob
from gaincurate.compare.config import checked_comparison
from gaincurate.compare.results import FACTS
from gaincurate.compare.runner import CHOICE, JOBS, TUNE, compare, estimate, stated, tasks_by_id
from gaincurate.core.artifact import MANIFEST
from gaincurate.core.files import write_json
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import GaincurateError, InputError, OutputError
from gaincurate.schedule.run import Run

pytest.importorskip("trl")

RATE = {"train": {"learning_rate": 1e-3}}
G = 8  # rollouts of a prompt in `small_sets`
BEST = {"learning_rate": 2e-3, "step_prompts": 2, "group": G // 2}


class Bench:
    """Runs `compare` on small sets; says which trainings it would have done, and makes up what they gave."""

    def __init__(self, folder: Path) -> None:
        self.out, self._settings = folder / "out", small_sets(folder) | RATE
        self.trained: list[str] = []
        self.killed = False

    def begin(self, *, tune: bool = False, **changes: Any) -> dict[str, Any]:
        """What `comparison.json` says then; `table` is that of the tuning."""
        self.trained.clear()
        if "table" in changes:
            changes["tune"] = changes.pop("table")
        compare(checked_comparison(self._settings | changes), self.out, tune=tune)
        return dict(json.loads((self.out / FACTS).read_bytes()))

    def tune(self, **changes: Any) -> dict[str, Any]:
        """The same with `--tune`."""
        return self.begin(tune=True, **changes)

    def work(self, jobs: list[ArmJob], *rest: Any) -> None:
        """Instead of training."""
        self.trained += [f"{job.arm.name} {job.seed}" for job in jobs]
        if self.killed:
            raise KeyboardInterrupt

    def choice(self) -> dict[str, Any]:
        """What `tune.json` says."""
        return dict(json.loads((self.out / TUNE / CHOICE).read_bytes()))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The best setting is twice the learning rate with half of the prompts; seed 101 is always worse by 0.05.

    No answer to the largest groups was judged.
    """

    def evaluation_rows(job: ArmJob, prompts: list[str]) -> list[dict[str, Any]]:
        right = 5 * job.comparison.learning_rate / 1e-3 - job.comparison.step_prompts - (job.seed == 101)
        judged = [{"right": 10 + int(right), "samples": 20}, {"right": 10, "samples": 20}]
        return [*(judged if job.comparison.group <= G else []), {"right": 0, "samples": 0}]

    bench = Bench(tmp_path)
    for name in ("roll_out", "collect"):
        monkeypatch.setattr(f"gaincurate.compare.runner.{name}", lambda *given: None)
    monkeypatch.setattr("gaincurate.compare.runner._work", bench.work)
    monkeypatch.setattr(ArmJob, "evaluation_rows", evaluation_rows)
    monkeypatch.setattr(ArmJob, "cost", lambda job, k: {"step": 100 // job.comparison.step_prompts})
    return bench


@pytest.mark.parametrize(
    "change",
    [{"success": 0.5}, {"budget_tokens": 2000}, {"evaluation": {"samples": 2}}, {"train": {"learning_rate": 1e-2}}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_all_arms_share_cannot_change(bench: Bench, change: dict[str, Any]) -> None:
    bench.begin()
    with pytest.raises(OutputError, match=rf"holds another comparison: comparison\.{next(iter(change))}"):
        bench.begin(**change)


def test_an_arm_that_was_left_out_keeps_its_name(bench: Bench) -> None:
    bench.begin()
    left_out = bench.begin(arms=[], seeds=[4])
    assert sorted(left_out["begun"]) == ["angle", "length", "uniform"]
    with pytest.raises(OutputError, match=r"holds another comparison: arms\.angle\.strategy differ"):
        bench.begin(arms=[{"name": "angle", "strategy": "length"}])


def test_an_arm_that_was_refused_may_come_again_mended(bench: Bench) -> None:
    """And one that was prepared beside it is not taken for what later has its name."""

    def strategies(**arms: str) -> dict[str, str]:
        bench.begin(arms=[{"name": name, "strategy": strategy} for name, strategy in arms.items()])
        return {name: Run(bench.out / JOBS / name / "seed-0" / "run").config.strategy for name in arms}

    with pytest.raises(InputError, match=r"unifrom"):
        strategies(other="uniform", mine="unifrom")
    assert Run(bench.out / JOBS / "other" / "seed-0" / "run").config.strategy == "uniform"
    assert json.loads((bench.out / FACTS).read_bytes())["begun"] == {}
    assert strategies(other="length", mine="file-order") == {"other": "length", "mine": "file-order"}
    assert bench.trained[:4] == ["uniform 0", "length 0", "other 0", "mine 0"]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (["sauce"], r"has no column 'sauce'; it has .*source"),
        (["same"], r"has 1 of them for 40 prompts\. Name columns with two tasks or more"),
        (["gc_id"], r"has 40 of them for 40 prompts\."),
        (["tags"], r"tasks = \['tags'\]: tags holds list<.*>, not names\."),
    ],
)
def test_columns_that_are_no_tasks_are_refused(bench: Bench, columns: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        bench.begin(tasks=columns)


def test_a_task_is_what_its_columns_say_together_and_may_be_named_later(bench: Bench, tmp_path: Path) -> None:
    assert bench.begin(tasks=[])["tasks"] == []
    assert bench.begin(tasks=["source", "level"])["tasks"] == ["source", "level"]
    heldout = ScoredSet(tmp_path / "heldout")
    names = tasks_by_id(heldout, ["source", "level"])
    assert names["heldout3"] == "task 3 1"
    assert len(set(names.values())) == 8
    assert tasks_by_id(heldout, []) == {}


@pytest.mark.parametrize(
    "change", [{"verifier": "compare_world:odd"}, {"answer_column": "gold"}, {"model": "nowhere"}]
)
def test_what_cannot_be_trained_with_leaves_nothing_that_refuses_the_corrected_file(
    bench: Bench, change: dict[str, Any]
) -> None:
    with pytest.raises(GaincurateError):
        bench.begin(**change)
    assert not (bench.out / FACTS).exists()
    bench.begin()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Three arms and two seeds; each step has 4 prompts of 8 rollouts of up to 64 tokens."""
    return small_sets(tmp_path) | {"seeds": [0, 1], "marks": 2, "evaluation": {"samples": 3}}


def test_trainings_tokens_and_answers_are_counted(settings: dict[str, Any], tmp_path: Path) -> None:
    arms = [{"name": "angle", "strategy": "gain-rl"}]
    comparison = checked_comparison(settings | {"budget_tokens": 5000, "prefill_weight": 10, "arms": arms})
    before = tree(tmp_path)
    facts = estimate(comparison, tmp_path / "out")
    assert tree(tmp_path) == before
    scored = 10 * 3 * 40  # of `small_sets`: 3 tokens in each of 40 prompts
    assert (facts["trainings"], facts["done"], facts["tokens"]) == (6, 0, 2 * (3 * 5000 - scored))
    assert facts["judged"] == (6 * 2 + 1) * 40 * 3
    assert facts["seconds"] is None
    tuned = estimate(comparison, tmp_path / "out", tune=True)
    assert (tuned["tuning"], tuned["trainings"]) == (36, 42)


def test_the_time_is_that_of_what_is_done_there(settings: dict[str, Any], tmp_path: Path) -> None:
    comparison, out = checked_comparison(settings), tmp_path / "out"
    out.mkdir()
    write_json(out / FACTS, stated(comparison, out)[0])
    for arm, seconds in (("uniform", 50.0), ("length", 150.0)):
        for k in range(2):
            mark = out / JOBS / arm / "seed-0" / MARKS / str(k)
            (mark / ROLLOUTS).mkdir(parents=True)
            write_json(mark / ROLLOUTS / MANIFEST, {})
            write_json(mark / COST, {"seconds": seconds, "training": 500})
    (out / JOBS / "angle" / "seed-0").mkdir(parents=True)
    write_json(out / JOBS / "angle" / "seed-0" / PROGRESS, {"share": 0.5})
    facts = estimate(comparison, out, 2)
    # 0.2 s a token, two trainings at a time; of six of 1,000 tokens, two are done and one is half done.
    assert facts["seconds"] == pytest.approx(3.5 * 1000 * 0.2 / 2)
    assert estimate(comparison, out, 9)["seconds"] == pytest.approx(3.5 * 1000 * 0.2 / 4), "four are left"
    assert (facts["done"], facts["tokens"]) == (2, 3500)
    with pytest.raises(OutputError, match="budget_tokens differ"):
        estimate(checked_comparison(settings | {"budget_tokens": 900}), out)


def test_what_the_comparison_would_refuse_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such field"):
        estimate(checked_comparison(settings | {"train": {"learning_rat": 1}}), tmp_path / "out")
    right = {"scale_rewards": "batch", "bf16": False, "weight_decay": 0}
    estimate(checked_comparison(settings | {"train": right}), tmp_path / "out")
    arm = {"name": "mine", "strategy": "gain-rl", "options": {"sigmaa": "3"}}
    with pytest.raises(InputError, match="sigmaa"):
        estimate(checked_comparison(settings | {"arms": [arm]}), tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("")
    with pytest.raises(OutputError, match="holds 'a.txt'"):
        estimate(checked_comparison(settings), tmp_path / "out")


def test_the_command_prints_it(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(toml(settings))
    asked = ("compare", tmp_path / "c.toml", "-o", tmp_path / "out", "--dry-run")
    said = "6 trainings, 0 done; 6,000 tokens to generate in training, and 1,560 answers to judge; nothing"
    assert said in " ".join(run(*asked).stdout.split())
    assert not (tmp_path / "out").exists()
    assert json.loads(run(*asked, "--json").stdout)["trainings"] == 6


def test_uniform_is_tuned_first_and_all_arms_inherit(bench: Bench) -> None:
    facts = bench.tune(arms=[{"name": "angle", "strategy": "file-order", "round_steps": 3}], seeds=[0])
    grid = itertools.product((100, 101), (G // 2, G, 2 * G), (2, 4), ("0.0005", "0.001", "0.002"))
    tried = [f"uniform-at-{n}x{group}-lr-{rate} {seed}" for seed, group, n, rate in grid]
    assert bench.trained == [*tried, "uniform 0", "length 0", "angle 0"]
    assert facts["tuned"]["chosen"] == BEST
    settings = facts["comparison"]
    assert settings["train"]["learning_rate"] == 2e-3
    assert (settings["step_prompts"], settings["group"]) == (2, G // 2)
    # A round keeps its 8 prompts, and that of the last arm its 12.
    assert (settings["round_steps"], settings["arms"][2]["round_steps"]) == (4, 6)
    best = facts["tuned"]["grid"][2]
    assert best["accuracy_by_seed"] == pytest.approx([(18 / 20 + 10 / 20) / 2, (17 / 20 + 10 / 20) / 2])
    assert (best["accuracy"], best["steps"]) == (pytest.approx(0.6875), 50)
    began = [Run(bench.out / f"jobs/{arm}/seed-0/run").config for arm in ("uniform", "length", "angle")]
    assert ([run.budget for run in began], len({run.seed for run in began})) == ([8, 8, 12], 3)


def test_a_tuned_folder_goes_on_with_what_was_chosen(bench: Bench) -> None:
    first = bench.tune()
    assert bench.begin() == first
    assert not any("lr" in name for name in bench.trained)
    assert bench.tune(seeds=[5])["tuned"] == first["tuned"]


def test_killed_while_it_tunes_it_goes_on(bench: Bench) -> None:
    bench.killed = True
    with pytest.raises(KeyboardInterrupt):
        bench.tune()
    assert "chosen" not in bench.choice()
    assert not (bench.out / FACTS).exists()
    checkpoint = bench.out / TUNE / f"uniform-at-2x{G}-lr-0.001" / "seed-100" / "a-checkpoint"
    checkpoint.write_text("kept")
    bench.killed = False
    bench.begin()  # the folder says it
    assert checkpoint.exists()
    assert bench.choice()["chosen"] == BEST


def test_killed_while_trainings_were_prepared_they_are_prepared_again(bench: Bench) -> None:
    half = bench.out / TUNE / f"uniform-at-2x{G}-lr-0.0005" / "seed-100"
    half.mkdir(parents=True)
    (half / "run").write_text("no folder")
    bench.tune()
    assert Run(half / "run").config.strategy == "uniform"


def test_one_setting_is_tried_once_and_ties_go_to_the_first(bench: Bench) -> None:
    table = {"learning_rate": [1, 1.0], "step_prompts": [1, 0.9], "group": [1], "seeds": [7]}
    facts = bench.tune(table=table)
    assert bench.trained[:2] == [f"uniform-at-4x{G}-lr-0.001 7", "uniform 0"]
    assert facts["tuned"]["chosen"] == {"learning_rate": 1e-3, "step_prompts": 4, "group": G}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"table": {"seeds": [1]}}, "tune.seeds"),
        ({"train": {"learning_rate": 1e-2}}, "comparison.train.learning_rate"),
    ],
)
def test_other_settings_of_a_tuned_folder_are_refused(bench: Bench, change: dict[str, Any], key: str) -> None:
    bench.tune()
    with pytest.raises(OutputError, match=rf"was tuned with other settings: .*{key}.* differ\."):
        bench.tune(**change)


def test_a_folder_that_was_begun_without_is_refused(bench: Bench) -> None:
    bench.begin()
    with pytest.raises(OutputError, match=r"holds a comparison that was begun without --tune; give another"):
        bench.tune()


def test_a_step_that_an_arm_cannot_have_is_refused_before_tuning(bench: Bench) -> None:
    sentence = rf"^\[tune\] step_prompts = 2, group = {G // 2}: the arm 'r': fresh_share 0.2 of 2 groups is 0"
    with pytest.raises(InputError, match=sentence):
        bench.tune(arms=[{"name": "r", "strategy": "uniform", "replay": {"fresh_share": 0.2}}])
    assert bench.trained == []

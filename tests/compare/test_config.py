"""What a comparison's file may say, the sentence for what it may not, and docs/compare.md and its studies."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gaincurate.compare import config
from gaincurate.compare.arm import ArmJob
from gaincurate.compare.config import Arm, ReplayArm, checked_comparison, read_comparison
from gaincurate.errors import InputError
from gaincurate.schedule import base

LEAST: dict[str, Any] = {"scored": "scored", "heldout": "heldout", "verifier": "exact", "budget_tokens": 1000}
LEAST["arms"] = [{"name": "high", "strategy": "gain-rl"}]
DOCS = Path(__file__).parent.parent.parent / "docs"
TEXT = (DOCS / "compare.md").read_text()


def test_the_controls_are_always_there_and_marks_divide_the_budget() -> None:
    assert checked_comparison(LEAST | {"marks": 3}).mark_tokens == [333, 666, 1000]
    assert [arm.name for arm in checked_comparison(LEAST).arms] == ["uniform", "length", "high"]
    own = {"name": "length", "strategy": "length", "ascending": False}
    found = checked_comparison(LEAST | {"arms": [own]})
    assert [(arm.name, arm.ascending) for arm in found.arms] == [("uniform", None), ("length", False)]


class Silent(base.Selector):
    """A strategy of a user's own that does not say what it reads."""

    def draw(self, round_: int) -> Any:
        return range(self.pool.budget)


class Free(Silent):
    """Says that it reads no score."""

    reads_scores: ClassVar[bool] = False


class FreeByAngle(Free):
    """Says so too, and yet goes by one."""

    by: ClassVar[str | None] = "gc_angle"
    ordering: ClassVar[base.Ordering] = "any"


@pytest.mark.parametrize(
    ("strategy", "by", "charged"),
    [
        ("uniform", None, False), ("file-order", None, False), ("file-order", "level", False),
        ("file-order", "gc_angle", True), ("length", None, False), ("length", "gc_prompt_tokens", False),
        ("length", "gc_nll", True), ("posterior", None, False), ("dots", None, True), ("gain-rl", None, True),
        ("gain-rl", "level", True),  # its mean follows the angles
        ("mine:Silent", None, True), ("mine:Silent", "level", False), ("mine:Silent", "gc_angle", True),
        ("mine:Free", None, False), ("mine:Free", "gc_angle", True), ("mine:FreeByAngle", None, True),
        ("mine:FreeByAngle", "level", False),
    ],
)  # fmt: skip
def test_an_arm_is_charged_a_scoring_pass_where_its_draws_go_by_scores(
    monkeypatch: pytest.MonkeyPatch, strategy: str, by: str | None, charged: bool
) -> None:
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    assert Arm(name="a", strategy=strategy, by=by).needs_scores is charged


def test_an_arm_keeps_the_shares_of_groups_and_pays_for_clusters(tmp_path: Path) -> None:
    by_source = {"name": "s", "strategy": "uniform", "stratify": "source", "group_weights": {"a": 1, "b": 2}}
    clustered = {"name": "c", "strategy": "uniform", "stratify": "embedding", "clusters": 5}
    comparison = checked_comparison(LEAST | {"model": "some-model", "arms": [by_source, clustered]})
    arms = {arm.name: arm for arm in comparison.arms}
    assert (arms["s"].needs_scores, arms["c"].needs_scores) == (False, True)
    runs = [ArmJob(comparison, arms[name], 0, tmp_path).schedule() for name in "sc"]
    assert [(run.stratify, run.clusters, run.group_weights) for run in runs] == [
        ("source", None, {"a": 1.0, "b": 2.0}),
        ("embedding", 5, None),
    ]


def test_half_a_prompt_is_generated_for_and_the_buffer_holds_a_step_of_the_arm() -> None:
    for prompts, fresh in ((3, 2), (4, 2), (5, 3), (7, 4)):
        arm = Arm(name="r", strategy="uniform", replay=ReplayArm(fresh_share=0.5), step_prompts=prompts)
        sizes = checked_comparison(LEAST).replay_of(arm)
        assert sizes is not None
        assert (sizes.fresh_groups, sizes.capacity) == (fresh, prompts)


def replaying(name: str, strategy: str = "gain-rl", **more: Any) -> dict[str, Any]:
    return {"name": name, "strategy": strategy, "replay": {"fresh_share": 0.5}} | more


OTHERWISE = replaying("b", replay={"fresh_share": 0.25})


@pytest.mark.parametrize(
    ("arms", "controls"),
    [
        ([{"name": "a", "strategy": "gain-rl"}], {}),
        ([replaying("a")], {"a": "uniform-replay"}),
        ([{"name": "a", "strategy": "gain-rl", "step_prompts": 4}], {"a": "uniform-at-4"}),
        ([{"name": "a", "strategy": "gain-rl", "step_prompts": 8}], {}),
        ([replaying("a", step_prompts=4)], {"a": "uniform-at-4-replay"}),
        ([replaying("a"), replaying("b", "length")], {"a": "uniform-replay", "b": "uniform-replay"}),
        ([replaying("a"), OTHERWISE], {"a": "uniform-replay", "b": "uniform-replay-2"}),
        ([replaying("a"), replaying("mine", "uniform")], {"a": "mine"}),
        ([replaying("mine", "uniform")], {}),
        ([replaying("a", "uniform", stratify="source")], {"a": "uniform-replay"}),
        ([replaying("a"), {"name": "uniform-replay", "strategy": "length"}], {"a": "uniform-replay-2"}),
    ],
)
def test_arms_with_replay_or_steps_of_another_size_get_their_control(
    arms: list[dict[str, Any]], controls: dict[str, str]
) -> None:
    found = checked_comparison(LEAST | {"arms": arms})
    by_name = {arm.name: arm for arm in found.arms}
    there = {arm.name: made.name for arm in found.arms if (made := found.control_of(arm))}
    assert there == controls
    own = [arm["name"] for arm in arms]
    assert [*by_name] == [
        "uniform",
        "length",
        *own,
        *dict.fromkeys(n for n in controls.values() if n not in own),
    ]
    for name, control in controls.items():
        assert by_name[control].strategy == "uniform"
        assert by_name[control].replay == by_name[name].replay
        assert found.prompts_of(by_name[control]) == found.prompts_of(by_name[name])
    without = checked_comparison(LEAST | {"arms": arms, "controls": False})
    assert [arm.name for arm in without.arms] == ["uniform", "length", *own]


def test_a_file_names_folders_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = tmp_path / "c.toml"
    path.write_text(
        'scored = "a"\nheldout = "../b"\nmodel = "model"\nverifier = "exact"\nbudget_tokens = 10\n'
        '[train]\nlearning_rate = 1e-3\n[[arms]]\nname = "x"\nstrategy = "uniform"\n'
    )
    found = read_comparison(path)
    assert found.scored == tmp_path / "a"
    assert found.heldout == tmp_path.parent / "b"
    assert found.model == str(tmp_path / "model")
    assert found.train == {"learning_rate": 1e-3}


REPLAYING = {"name": "r", "strategy": "uniform"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"marks": 2000}, "2000 marks in a budget of 1000 tokens."),
        ({"train": {"warmup_steps": 0.1}}, "train.warmup_steps = 0.1: Input should be a valid integer."),
        ({"train": {"max_steps": 1}}, "[train] max_steps is set by the comparison itself; leave it out."),
        ({"train": {"max_grad_norm": math.nan}}, "Out of range float values are not JSON compliant."),
        ({"arms": [{"name": "uniform", "strategy": "gain-rl"}]}, "the arm 'uniform' is what others are compared"),
        ({"arms": [REPLAYING | {"replay": {"fresh_share": 0.05}}]}, "the arm 'r': fresh_share 0.05 of 8 groups is 0"),
        ({"arms": [REPLAYING | {"replay": {"capacity": 2}}]}, "the arm 'r': capacity 2 is less than the 4 groups"),
        ({"seeds": [1, 1]}, "seeds [1, 1] has one twice."),
        ({"arms": [REPLAYING, REPLAYING]}, "two arms have the name 'r'."),
        (
            {"arms": [REPLAYING | {"step_prompts": 3}], "train": {"gradient_accumulation_steps": 4}, "group": 2},
            "[train] gradient_accumulation_steps 4 does not divide the 6 rollouts of a step",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=rf"^c: {re.escape(sentence)}"):
        checked_comparison(LEAST | change, "c")


def test_what_a_file_lacks_is_said_as_it_stands_there(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("score = 'a'\nheldout = 'b'\nverifier = 'exact'\narms = [{name = 'x', rounds = 3}]\n")
    with pytest.raises(InputError) as error:
        read_comparison(path)
    said = str(error.value).removeprefix(f"{path}: ").rstrip(".").split("; ")
    assert said[:2] == ["there is no setting arms[0].rounds", "there is no setting score"]
    assert sorted(said[2:]) == [
        f"{name} is missing" for name in ("arms[0].strategy", "budget_tokens", "scored")
    ]
    path.write_text("scored = ")
    with pytest.raises(InputError, match=r"c.toml is not TOML: Invalid value"):
        read_comparison(path)
    path.unlink()
    with pytest.raises(InputError, match=r"c.toml does not exist\."):
        read_comparison(path)


@pytest.mark.parametrize("kind", ["Comparison", "Arm", "ReplayArm", "Evaluation", "Tune"])
def test_every_setting_is_named_with_its_default(kind: str) -> None:
    settings = TEXT[TEXT.index("## Settings") : TEXT.index("## What an arm is charged")]
    for name, field in getattr(config, kind).model_fields.items():
        if name in ("train", "evaluation", "tune", "arms"):
            assert f"`[{name}]`" in settings or f"`[[{name}]]`" in settings
        else:
            assert f"`{name}`" in settings
        row = re.search(rf"^\| `{name}` \| ([^|]*) \|", settings, re.MULTILINE)
        if row and isinstance(field.default, int | float):
            assert row[1] == json.dumps(field.default)


def test_the_example_and_the_study_of_the_docs_are_comparisons() -> None:
    for name, arms in (("study.toml", 9), ("study-short.toml", 4)):
        assert len(read_comparison(DOCS / "studies/head_to_head" / name).arms) == arms
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    found = checked_comparison(tomllib.loads(example))
    assert [arm.name for arm in found.arms] == ["uniform", "length", "gain-rl", "posterior"]


def test_rates_of_wrong_verdicts_are_those_that_were_simulated() -> None:
    """Rows of both tables: tasks, effects of arm and seed on tasks, then what the simulation's file says."""
    rows = list(csv.DictReader((DOCS / "studies/verdicts/rates.csv").read_text().splitlines()))
    page = (DOCS / "studies/verdicts/README.md").read_text()
    lines = {tuple(re.findall(r"[\d.]+", line)) for line in page.splitlines() if line.startswith("| ")}
    for row in rows:
        key = [row["tasks"], *(f"{float(row[name]):g}" for name in ("arm x task", "seed x task"))]
        if float(row["points"]) == 0:
            names = ["independent wrong %", "these wrong %", "other wrong %"]
        else:
            key = [*(f"{float(row[name]):g}" for name in ("points", "seed")), *key[1:]]
            names = ["these seen %", "these half", "other seen %", "other half"]
        assert (*key, *(f"{float(row[name]):.1f}" for name in names)) in lines
        assert float(row["other wrong %"]) <= 5
    assert int(rows[0]["studies"]) == 200

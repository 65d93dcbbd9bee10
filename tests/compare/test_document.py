"""What is told of a comparison, against brute force and by the letter, and its page."""

from __future__ import annotations

import copy
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import compare_results
from gaincurate.compare import document as words
from gaincurate.compare.contents import to_html
from gaincurate.compare.document import Steps, document, over_time, pass_at, with_angle
from gaincurate.compare.results import FACTS, PER_STEP, RESULTS, read_results
from gaincurate.core.stats import spearman_given
from gaincurate.errors import OutputError
from gaincurate.report.parts import signed, typeset
from html_reader import Reader, read_whole

ARMS = ["uniform", "length", "a"]
ASKED = compare_results.comparison(ARMS, seeds=2, marks=2)
RATES = compare_results.world([0.0] * 3, seeds=2, prompts=5, spread=0.1, samples=4, draw=1)


def test_arrays_have_what_the_rows_say(tmp_path: Path) -> None:
    out = compare_results.write(tmp_path / "out", ASKED, compare_results.rows_of(ASKED, RATES))
    results = read_results(out)
    np.testing.assert_array_equal(results.accuracy, RATES)
    assert (results.arms, results.seeds, len(results.prompts), results.left_out) == (ARMS, [0, 1], 5, 0)
    assert results.costs["tokens"].tolist()[2] == [[800, 800], [5007, 5014], [10007, 10014]]
    assert results.costs["scoring"][2, 1:].tolist() == [[800, 800], [800, 800]]
    assert results.written[2, 1, 0].tolist() == [52] * 5
    assert results.steps["a", 1]["step"].tolist() == list(range(1, 21))
    assert results.comparison["budget_tokens"] == 10_000


def test_a_prompt_that_could_not_be_judged_is_left_out_everywhere(tmp_path: Path) -> None:
    rows = compare_results.rows_of(ASKED, RATES)
    rows["evaluations"][13] |= {"samples": 0, "right": 0}
    gone = rows["evaluations"][13]["gc_id"]
    results = read_results(compare_results.write(tmp_path / "out", ASKED, rows))
    assert (len(results.prompts), results.left_out) == (4, 1)
    judged = [place for place in range(5) if f"id-{place:04d}" != gone]
    np.testing.assert_array_equal(results.accuracy, RATES[..., judged])


@pytest.mark.parametrize("name", ["evaluations", "marks"])
def test_tables_of_other_settings_are_refused(tmp_path: Path, name: str) -> None:
    rows = compare_results.rows_of(ASKED, RATES)
    rows[name].pop()
    out = compare_results.write(tmp_path / "out", ASKED, rows)
    with pytest.raises(OutputError, match=rf"results are not those of {FACTS}\. Run the same command again"):
        read_results(out)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="has no comparison.json: it is no comparison"):
        read_results(tmp_path)
    out = compare_results.example(tmp_path / "out", seeds=2, prompts=3)
    whole = (out / FACTS).read_bytes()
    (out / FACTS).write_bytes(whole[:-9])
    with pytest.raises(OutputError, match=r"comparison.json is damaged; restore it from a copy"):
        read_results(out)
    (out / FACTS).write_bytes(whole)
    (out / RESULTS / "marks.arrow").unlink()
    with pytest.raises(OutputError, match=r"has no marks.arrow: the comparison is not finished"):
        read_results(out)


Json = dict[str, Any]
SETTING: Json = {"baseline": "uniform", "second": "length", "claim": "these tasks", "tasks": None}
SETTING |= {"tuned": None, "seeds_count": 3, "prompts": 1200, "budget_tokens": 1000}
THIRTEEN: Json = {"tasks": {"count": 13, "effective": 10.5}, "claim": "other tasks like these"}
LEARNED = {"value": 0.1, "interval": [0.05, 0.15]}


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(samples: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    answers = [1] * right + [0] * (samples - right)
    subsets = list(combinations(answers, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    *_, found = pass_at(np.array([float(right)]), np.array([float(samples)]), k)
    assert found[0] == pytest.approx(expected, abs=1e-12)


def arm(
    name: str, value: float = 0, joint: list[float] | None = None, answer: str = "", **reached: Any
) -> Json:
    """An arm's measures, with one difference for all that it is compared with; the baseline has none."""
    row: Json = {"value": value, "joint": joint, "answer": answer, "detectable": 0.0412}
    difference = row | {"claims": {"these tasks": row}} if answer else None
    return {
        "arm": name,
        **dict.fromkeys(("difference", "against_length"), difference),
        **dict.fromkeys(("control", "against_control")),
        "reached": {"spent": None, "share": None, "share_interval": None} | reached,
        "accuracy": {"value": 0.5},
        "cost": {"scoring": 100 if answer else 0},
    }


BETTER = arm("dots", 0.031, [0.012, 0.05], "better", spent=62.0, share=0.62, share_interval=[0.5, None])
WORSE = arm("length", -0.02, [-0.035, -0.005], "worse")
SAME = arm("high", 0.004, [-0.02, 0.028], "no difference seen", spent=90.0, share=0.9)
UNKNOWN = arm("high", 0.004, None, "cannot say")


def of(*arms: Json, learned: Json = LEARNED, apart: tuple[str, ...] = (), **setting: Any) -> Json:
    arms = (arm("uniform"), *arms)
    return {"setting": SETTING | setting, "learned": learned, "arms": list(arms), "apart": list(apart)}


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (arm("uniform"), "50.0 of 100 held-out answers were right at the end, +10.0 since the start."),
        (BETTER, "dots: better than uniform. +3.1 right answers of 100 against uniform (+1.2 to +5.0)."),
        (BETTER, "It was at uniform's final accuracy after 62 % (50 % to never) of the budget."),
        (WORSE, "length: worse than uniform. -2.0 right answers of 100 against uniform (-3.5 to -0.5)."),
        (SAME, "high: no difference seen. +0.4 right answers of 100 against uniform (-2.0 to +2.8)"),
        (UNKNOWN, "high: cannot say. +0.4 right answers of 100 against uniform, with one seed"),
    ],
)
def test_a_sentence_for_an_arm(one: Json, said: str) -> None:
    assert said in words.about_arm(of(one), one)


def test_an_arm_is_held_against_its_own_control_too() -> None:
    one = BETTER | {"control": "uniform-replay", "against_control": WORSE["difference"]}
    assert words.about_arm(of(one), one).endswith("worse than uniform-replay (-2.0, -3.5 to -0.5).")
    assert words.headline(of(one, SAME)).endswith("none better than its control; worse: dots.")
    one = BETTER | {"control": "uniform-at-8", "against_control": SAME["difference"]}
    assert words.about_arm(of(one), one).endswith("seen against uniform-at-8 (+0.4, -2.0 to +2.8).")


def test_a_target_that_the_start_or_only_noise_meets_is_not_spoken_of() -> None:
    unlearned = of(BETTER, learned={"value": -0.01, "interval": [-0.05, 0.03]})
    assert words.about_arm(unlearned, BETTER).endswith("(+1.2 to +5.0).")
    touched = WORSE | {"reached": BETTER["reached"]}
    assert words.about_arm(of(touched), touched).endswith("(-3.5 to -0.5).")
    said = words.about_arm(of(WORSE), WORSE)
    assert said.endswith("It did not reach uniform's final accuracy within the budget.")


@pytest.mark.parametrize(
    ("sentence", "arms", "said"),
    [
        (
            words.headline,
            [BETTER, WORSE, SAME],
            "better than uniform: dots; worse: length; no difference seen: 1.",
        ),
        (words.headline, [WORSE], "of 1 other strategy, none better than uniform; worse: length."),
        (
            words.headline,
            [SAME],
            "4.1 more or fewer right answers of 100 would have been seen in 8 of 10 such",
        ),
        (words.headline, [UNKNOWN], "One seed allows no verdict"),
        (
            words.about_length,
            [BETTER, WORSE, SAME],
            "better: dots (+3.1, +1.2 to +5.0); worse: length (-2.0, ",
        ),
        (words.about_length, [BETTER, WORSE, SAME], "-3.5 to -0.5); no difference seen: 1 of 3"),
        (words.about_length, [UNKNOWN], "None"),
        (words.about_length, [], "None"),
    ],
)
def test_a_sentence_over_all(sentence: Any, arms: list[Json], said: str) -> None:
    assert said in str(sentence(of(*arms)))


def test_sentences_say_which_tasks_they_are_about() -> None:
    unseen = copy.deepcopy(BETTER) | {"arm": "unseen"}  # better for these tasks, and not seen for others
    for key in ("difference", "against_length"):
        unseen[key] |= {"answer": "no difference seen", "joint": [-0.02, 0.08]}
    whole = of(unseen, WORSE, **THIRTEEN)
    said = words.about_arm(whole, unseen)
    assert "(-2.0 to +8.0): with 3 seeds and 13 tasks up to 8.0 more or 2.0 fewer remain possible." in said
    assert said.endswith("For more prompts of these tasks alone: better (+1.2 to +5.0).")
    assert words.about_arm(whole, WORSE) == words.about_arm(of(WORSE), WORSE)
    assert "none better than uniform on other tasks like these; worse: length" in words.headline(whole)
    assert words.headline(whole).endswith("13 tasks alone: better than uniform: unseen; worse: length.")
    length = words.about_length(of(unseen, **THIRTEEN)) or ""
    assert "no difference seen: all of 1 on other tasks like these" in length
    assert length.endswith("tasks alone: better: unseen (+3.1, +1.2 to +5.0).")


NOTHING: Json = {"learned": {"value": 0.01, "interval": [-0.02, 0.04]}, "apart": ("dots",)}
TUNED = {"chosen": {"learning_rate": 2e-05, "step_prompts": 4, "group": 8}, "grid": [{}] * 6}
WEAK = """not clear that uniform learned anything (+1.0 right answers of 100
dots had spent 40 % of the budget on scores
intervals use only its own 3 seeds
prompts are treated as independent
3 held-out prompts are left out"""


@pytest.mark.parametrize(
    ("compared", "left_out", "parts"),
    [
        (of(**THIRTEEN), 0, ""),
        (of(BETTER | {"cost": {"scoring": 400}}, **NOTHING), 3, WEAK),
        (
            of(tasks={"count": 6, "effective": 3.4}),
            0,
            "these 6 tasks, which count as 3.4 of equal size",
        ),
        (of(tuned=TUNED, **THIRTEEN), 0, "learning rate 2e-05 with 4 prompts a step and 8 rollouts"),
    ],
)
def test_notes_say_what_makes_a_comparison_weak(compared: Json, left_out: int, parts: str) -> None:
    said = words.notes(compared, left_out)
    assert all(part in note for part, note in zip(parts.splitlines(), said, strict=True)), said


def test_the_document_of_a_planted_world(tmp_path: Path) -> None:
    results = read_results(compare_results.example(tmp_path / "out"))
    found = document(results)
    assert json.loads(json.dumps(found, allow_nan=False)) == found  # plain values alone
    assert found == document(results)
    (low, high), gain = found["learned"]["interval"], found["learned"]["value"]
    assert gain == pytest.approx(np.ptp(results.accuracy[0, [0, -1]].mean(axis=(1, 2))))
    assert gain - low == pytest.approx(high - gain)
    assert 0 < gain - low < 0.2
    arms = {one["arm"]: one for one in found["arms"]}
    answers = {name: one["difference"]["answer"] for name, one in arms.items() if one["difference"]}
    assert answers == {"length": "no difference seen", "good": "better", "bad": "worse"}
    assert {name for name, one in arms.items() if one["against_length"]} == {"good", "bad"}
    good = arms["good"]
    assert good["accuracy"]["value"] == pytest.approx(results.accuracy[2, -1].mean())
    assert good["accuracy_by_seed"] == pytest.approx(results.accuracy[2, -1].mean(axis=1))
    assert good["pass_at"]["1"] == pytest.approx(good["accuracy"]["value"])
    parts = {"scoring": 800, "rescoring": 0, "references": 0, "training": 9214, "tokens": 10014}
    assert good["cost"] == parts | {"seconds": 88, "step": 40}
    assert [mark["tokens"] for mark in good["curve"]] == [800, 2514, 5014, 7514, 10014]
    assert [mark["response_tokens"] for mark in good["curve"]] == [12, 13, 14, 15, 16]
    assert 0 < good["reached"]["share"] < 0.7
    assert good["training"]["effective"] == pytest.approx(0.35)
    assert good["gradient"]["spearman"] > 0.8


def test_the_headline_is_of_other_tasks_where_there_are_five(tmp_path: Path) -> None:
    effects = {"uniform": 0.0, "length": 0.0, "good": 1.5}
    few = document(read_results(compare_results.example(tmp_path / "few", effects, tasks=4)))
    assert few["setting"]["claim"] == "these tasks"
    assert few["setting"]["tasks"]["effective"] == 4
    assert list(few["arms"][2]["difference"]["claims"]) == ["these tasks"]
    out = tmp_path / "out"
    found = document(read_results(compare_results.example(out, effects, tasks=5, task_taste=0.1)))
    assert found["setting"]["claim"] == "other tasks like these"
    assert found["setting"]["tasks"]["prompts"] == {f"task-{k}": 20 for k in range(5)}
    for key in ("difference", "against_length"):
        good = found["arms"][2][key]
        other, these = (good["claims"][claim] for claim in ("other tasks like these", "these tasks"))
        assert good["answer"] == other["answer"] == these["answer"] == "better"
        assert {name: good[name] for name in other} == other
        assert other["joint"][0] < these["joint"][0]


def test_what_an_arm_gains_on_its_control_is_a_family_of_its_own(tmp_path: Path) -> None:
    effects = {"uniform": 0.0, "length": 0.0, "a": 1.5, "uniform-at-4": 1.5}
    out = compare_results.example(tmp_path / "out", effects)
    facts = json.loads((out / "comparison.json").read_bytes())
    (out / "comparison.json").write_text(json.dumps(facts | {"controls": {"a": "uniform-at-4"}}))
    arms = {one["arm"]: one for one in document(read_results(out))["arms"]}
    assert [one["control"] for one in arms.values()] == [None, None, "uniform-at-4", None]
    row = arms["a"]["against_control"]
    own, control = (arms[name]["accuracy"]["value"] for name in ("a", "uniform-at-4"))
    assert row["value"] == pytest.approx(own - control)
    assert row["joint"] == row["interval"]  # alone in its family
    assert (arms["a"]["difference"]["answer"], row["answer"]) == ("better", "no difference seen")
    assert arms["uniform-at-4"]["against_control"] is None


def steps_of(count: int, **columns: object) -> Steps:
    made = {name: np.ones(count) for name in PER_STEP}
    made |= {"step": np.arange(1.0, count + 1), "tokens": np.arange(1.0, count + 1) * 10}
    return made | {name: np.asarray(values, np.float64) for name, values in columns.items()}


def test_shares_are_weighted_by_prompts_and_rollouts() -> None:
    nan = float("nan")
    first = steps_of(2, effective=[0.5, 1.0], prompts=[6, 2], reward=[0.1, nan], rollouts=[8, 8])
    second = steps_of(1, effective=[0.0], prompts=[2], reward=[0.4], rollouts=[4], replayed=[6])
    found = over_time([first, second], 20.0)
    assert found["effective"] == pytest.approx((0.5 * 6 + 1.0 * 2 + 0.0 * 2) / 10)
    assert found["reward"] == pytest.approx((0.1 * 8 + 0.4 * 4) / 12)
    assert found["replayed"] == pytest.approx(8 / 28)  # 1 + 1 + 6 of them and 20 generated
    assert found["rollouts"] == 10
    assert found["response_tokens"] == pytest.approx(3 / 20)
    tenths = {part["until"]: part["effective"] for part in found["parts"]}
    assert tenths[0.5] == pytest.approx((0.5 * 6 + 0.0 * 2) / 8)
    assert tenths[1.0] == 1.0
    assert tenths[0.1] is None
    late = over_time([steps_of(1, tokens=[120.0], effective=[0.5])], 100.0)
    assert late["parts"][-1]["effective"] == 0.5  # past the budget


def test_the_correlation_is_spearmans_of_each_seed() -> None:
    chance = np.random.default_rng(0)
    seeds = [
        steps_of(30, angle=(angle := chance.normal(size=30)), grad_norm=angle + chance.normal(size=30) * k)
        for k in (0.1, 2.0)
    ]
    found = with_angle(seeds)
    each = [stats.spearmanr(steps["angle"], steps["grad_norm"]).statistic for steps in seeds]
    assert found["spearman"] == pytest.approx(np.mean(each))
    assert found["seeds"] == 2


def test_what_both_have_from_time_is_taken_out() -> None:
    chance = np.random.default_rng(1)
    step = np.arange(1.0, 201)
    angle, grad_norm = -step + chance.normal(size=(2, 200)) * 9
    steps = steps_of(200, angle=angle, grad_norm=grad_norm)
    found = with_angle([steps])
    assert found["spearman"] > 0.9
    assert abs(found["given_step"]) < 0.25
    ranks = [stats.rankdata(steps[name]) for name in ("angle", "grad_norm", "step")]
    left = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    assert found["given_step"] == pytest.approx(stats.pearsonr(*left).statistic)


def test_without_angles_or_with_few_steps_nothing_is_said() -> None:
    none = {"spearman": None, "given_step": None, "seeds": 0}
    assert with_angle([steps_of(50, angle=[float("nan")] * 50)]) == none
    assert with_angle([steps_of(50)]) == none
    assert with_angle([steps_of(9, angle=np.arange(9), grad_norm=np.arange(9))]) == none
    line = np.arange(20.0)
    assert spearman_given(line, -line, line) is None


EFFECTS = {"uniform": 0.0, "length": -0.1, "angle": 0.05, "nll": 0.1, "variance": 1.0}
HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\u202e"


def test_the_page_says_what_the_document_says_and_names_from_outside_are_text(tmp_path: Path) -> None:
    told = document(read_results(compare_results.example(tmp_path / "out", EFFECTS)))
    read = read_whole(to_html(told))
    assert len(read.all("svg")) == 5
    first = read.text.split("At the end")[0]
    assert typeset(told["headline"]) in first
    assert typeset(told["against_length"]) in first
    for arm in told["arms"]:
        assert typeset(arm["sentence"].split(". ", 1)[1]) in first
        assert signed(arm["difference"]["value"], 3) in read.text if arm["difference"] else True
        assert f"{arm['cost']['tokens']:,.0f}" in read.text
    assert "What this does not show" in read.text
    told["setting"]["model"] = told["setting"]["comparison"]["scored"] = HOSTILE
    told["arms"][2]["settings"]["by"] = HOSTILE
    page = Reader(to_html(told))
    assert page.open == []
    assert not page.all("script")
    assert "<script>alert(1)</script>\"'&{{ 7 * 7 }}\\u202e" in page.text


def test_one_seed_and_no_steps_have_a_page(tmp_path: Path) -> None:
    out = compare_results.example(tmp_path / "out", {"uniform": 0, "length": 0}, seeds=1, prompts=10)
    found = document(read_results(out))
    for arm in found["arms"]:
        for part in arm["training"]["parts"]:
            part.update(effective=None, reward=None)
    page = Reader(to_html(found))
    assert page.open == []
    assert "One seed allows no verdict" in page.text
    assert len(page.all("svg")) == 3

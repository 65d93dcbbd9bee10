"""DOTS: its draw against closed forms and brute force; references by hand, rolled out, killed anywhere."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dots_runs
import gaincurate as package
import runs
from command import run as gaincurate
from dots_runs import step
from gaincurate.core.rng import log_softmin, uniforms
from gaincurate.difficulty.predictor import AdapterShape, DifficultyPredictor, save_adapter
from gaincurate.difficulty.prompts import draw_references
from gaincurate.errors import InputError, OutcomeError
from gaincurate.schedule.base import Pool
from gaincurate.schedule.rounds import advance, start
from gaincurate.schedule.run import Run
from gaincurate.schedule.strategies.dots import Dots, DotsOptions, seed_of


def drawn(
    values: Any, budget: int, rounds: int, references: Any = (), seed: int = 0, **options: Any
) -> list[list[int]]:
    """What so many rounds draw with these predictions."""
    selector = Dots(Pool(len(values), budget, seed), DotsOptions(**options))
    selector.inform(np.asarray(values, float), np.asarray(references, np.int64))
    return [selector.draw(round_).tolist() for round_ in range(rounds)]


def test_pairs_are_drawn_as_by_successive_sampling() -> None:
    d, count = np.array([0.2, 0.5, 0.55, 0.7]), 20_000
    weight = np.exp(-np.abs(d - 0.4) / 0.2)
    pairs = drawn(d, 2, count, seed=5, temperature=0.2, target_difficulty=0.4)
    for i, j in itertools.permutations(range(4), 2):
        expected = weight[i] / weight.sum() * weight[j] / (weight.sum() - weight[i])
        found = sum(pair == [i, j] for pair in pairs) / count
        assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / count))


def test_a_target_of_a_quarter_tells_the_failure_rate_from_the_pass_rate() -> None:
    d = np.linspace(0, 1, 101)
    (rows,) = drawn(d, 5, 1, target_difficulty=0.25, temperature=1e-6)
    assert sorted(rows) == [23, 24, 25, 26, 27]
    assert rows[0] == 25


def test_the_variance_is_drawn_by_its_own_size() -> None:
    v = np.array([0.0, 0.1, 0.25, 0.2, 0.24])
    (rows,) = drawn(v, 3, 1, target="variance")
    assert rows == [2, 4, 3]
    expected = np.exp(v / 0.1) / np.exp(v / 0.1).sum()
    first = [one[0] for one in drawn(v, 1, 20_000, target="variance", temperature=0.1)]
    assert np.abs(np.bincount(first, minlength=5) / len(first) - expected).max() < 0.015


@pytest.mark.parametrize("temperature", [1.0, 1e-3, 1e-18, 1e-310])
@pytest.mark.parametrize("where", [0.5, 0.0, 1.0])
def test_equal_rates_are_equally_likely(temperature: float, where: float) -> None:
    d = np.full(40, where)
    d[::4] = 0.9 * where  # a level of its own, farther or nearer
    counts = np.zeros(40)
    for rows in drawn(d, 10, 400, temperature=temperature):
        counts[rows] += 1
    for level in (np.arange(40) % 4 == 0, np.arange(40) % 4 > 0):
        mean = counts[level].mean()
        assert np.abs(counts[level] - mean).max() <= 5 * np.sqrt(max(mean, 1e-9))


@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30),
    st.floats(1e-320, 1e3),
    st.integers(0, 2**31),
)
def test_cut_gaps_change_no_draw(rates: list[float], temperature: float, seed: int) -> None:
    distance = np.abs(np.array(rates) - 0.5)
    found = log_softmin(distance, temperature)
    assert np.isfinite(found).all()
    assert found.max() == 0
    for i, j in itertools.combinations(range(len(rates)), 2):
        true = (float(distance[i]) - float(distance[j])) / temperature
        if abs(true) < 41:  # what noise can bridge is as it was
            assert found[j] - found[i] == pytest.approx(true, rel=1e-6, abs=1e-6)
        else:
            assert np.sign(found[j] - found[i]) == np.sign(true)
            assert abs(found[j] - found[i]) > 40.9


def test_references_are_never_drawn_and_are_those_of_the_command() -> None:
    pool = Pool(50, 30, seed=2**64 - 1)
    selector = Dots(pool, DotsOptions(references=20))
    values = np.full(50, 0.9)
    seen = set()
    for round_ in range(20):
        references = selector.references(round_)
        assert references.tolist() == draw_references(50, 20, seed_of(pool.seed, round_)).tolist()
        values[references] = 0.5  # observed right at the target
        selector.inform(values, references)
        assert set(selector.draw(round_).tolist()) == set(range(50)) - set(references.tolist())
        seen.add(tuple(references))
    assert len(seen) == 20
    assert 0 <= seed_of(0, 0) < 2**63


def test_a_round_is_the_steps_that_one_draw_is_for() -> None:
    assert DotsOptions(step_prompts=64).round_size(None) == 128
    assert DotsOptions(step_prompts=64, refresh_every=3).round_size(192) == 192
    assert DotsOptions().round_size(128) == 128
    for options, budget in ((DotsOptions(step_prompts=64), 100), (DotsOptions(), 101), (DotsOptions(), None)):
        with pytest.raises(InputError, match="draws prompts for refresh_every = 2 steps: give step_prompts"):
            options.round_size(budget)


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    return dots_runs.in_process(monkeypatch)


def test_a_run_waits_for_its_references_and_draws_by_them(tmp_path: Path) -> None:
    run = dots_runs.begin(tmp_path, target_difficulty=0.25, temperature=0.05)
    assert run.state["round"] == -1
    folder = run.references_folder(0)
    shown, ids = pq.read_table(folder / "references.parquet"), dots_runs.asked_of(run, 0)
    assert shown.column("gc_id").to_pylist() == ids
    assert shown.column_names == ["question", "gc_id", "prompt"]
    with pytest.raises(OutcomeError) as caught:
        advance(run)
    said = str(caught.value)
    assert said.startswith("round 0 waits for the outcomes of its 15 reference prompts under the model that")
    assert f"to {folder / 'references.jsonl'}, then `gaincurate schedule next {run.folder}`; or " in said
    assert caught.value.data["ids"] == ids
    plan = step(run)
    # The draw, done again from what was observed.
    failure = {i: 1 - np.mean([dots_runs.reward(i, 0, k) for k in range(4)]) for i in ids}
    groups = {g: np.mean([d for i, d in failure.items() if int(i[2:]) % 5 == g]) for g in range(5)}
    d = np.array([groups[row % 5] for row in range(60)]).astype(np.float32).astype(float)
    keys = -np.abs(d - 0.25) / 0.05 - np.log(-np.log(uniforms(0, 0, 0, 0, 60)))
    keys[[int(i[2:]) for i in ids]] = -np.inf
    assert plan["ids"] == [f"id{row:05d}" for row in np.argsort(-keys)[:8]]
    assert plan["predicted"] == [d[int(i[2:])] for i in plan["ids"]]
    told = plan["references"]
    assert told["ids"] == ids
    assert (told["observed"], told["rollouts"], told["completion_tokens"]) == (15, 60, 420)
    assert told["predictor"]["method"] == "group-mean"
    assert told["outcomes"]["file"] == "difficulty/00000/references.jsonl"
    assert told["checkpoint"] == "the-model"
    assert told["quality"]["count"] == 15
    assert not (tmp_path / "set/columns").exists()


def test_references_are_drawn_anew_and_never_trained_on_in_their_round(tmp_path: Path) -> None:
    run = dots_runs.begin(tmp_path, rounds=4)
    seen = set()
    for round_ in range(4):
        plan = step(run)
        assert not set(plan["ids"]) & set(plan["references"]["ids"])
        seen.add(tuple(plan["references"]["ids"]))
        assert plan["inputs"] == {} or plan["inputs"]["calibration"]["count"] == 8
        assert run.state["round"] == round_
    assert len(seen) == 4
    runs.write(run, 3, dots_runs.lines(run.ids(3), 3, round=3))
    assert advance(run) is None  # the last round needs no references
    assert not run.references_folder(4).exists()
    assert run.state["inputs"]["calibration"]["count"] == 8


def test_a_fitted_predictor_is_used_where_it_goes_with_the_set(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = DifficultyPredictor(AdapterShape(width=8, hidden=16)).eval()
    embedding = {"model": "some-model", "weights": "w" * 32, "width": 8}
    adapter = save_adapter(tmp_path / "adapter", module, embedding, {})
    run = dots_runs.begin(tmp_path, group_column=None, adapter=str(tmp_path / "adapter"))
    told = step(run)["references"]["predictor"]
    assert (told["method"], told["adapter"]) == ("adapter", adapter.digest)
    assert run.facts["params"]["adapter"] == str(tmp_path / "adapter")
    save_adapter(tmp_path / "other", module, {**embedding, "weights": "v" * 32}, {})
    with pytest.raises(InputError) as caught:
        dots_runs.begin(tmp_path / "2", group_column=None, adapter=str(tmp_path / "other"))
    assert str(caught.value) == (
        "the adapter was fitted on embeddings of some-model (8 wide, weights vvvvvvvv), and "
        f"{tmp_path / '2/set'} has those of some-model (8 wide, weights wwwwwwww); score with that model, or fit again."
    )
    (tmp_path / "other/config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is damaged; fit the predictor again\.$"):
        dots_runs.begin(tmp_path / "2", group_column=None, adapter=str(tmp_path / "other"))


def test_killed_at_any_write_the_plans_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"rounds": 2, "reuse_references": 0.3}
    reference = dots_runs.begin(tmp_path / "reference", **options)
    step(reference)
    step(reference)
    run = dots_runs.begin(tmp_path / "killed", **options)
    dots_runs.answer(run, 0)
    for round_ in range(2):
        number, kills = 1, 0
        before = tmp_path / f"before-{round_}"
        shutil.copytree(run.folder, before)

        attempt = dots_runs.killed_at_each_write(
            monkeypatch, lambda: advance(Run(run.folder)), after=round_ == 0
        )
        while attempt(number):
            kills += 1
            if kills % 2:  # on some go on from the killed folder, from others begin again
                if Run(run.folder).state["round"] < round_:
                    advance(Run(run.folder))
                assert runs.plans(run) == runs.plans(reference)[: round_ + 1]
            shutil.rmtree(run.folder)
            shutil.copytree(before, run.folder)
            number += 1
        assert kills >= 4
        assert runs.plans(run) == runs.plans(reference)[: round_ + 1]
        if round_ == 0:
            runs.write(run, 0, dots_runs.lines(run.ids(0), 0, round=0))
            with pytest.raises(OutcomeError):
                advance(Run(run.folder))
            dots_runs.answer(run, 1)


def test_outcomes_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    run = dots_runs.begin(tmp_path)
    ids = dots_runs.asked_of(run, 0)
    path = dots_runs.answer(run, 0, ids[:12])
    with pytest.raises(OutcomeError) as caught:
        advance(run)
    assert "for 12 of the 15 references of round 0 and 100% of them are needed" in str(caught.value)
    path.write_text(json.dumps({"gc_id": ids[0], "reward": 3}) + "\n")
    with pytest.raises(OutcomeError, match=r"reward of .* is 3, outside 0 to 1"):
        advance(run)
    path.write_text("{broken\n")
    with pytest.raises(InputError, match="cannot be read"):
        advance(run)
    path.unlink()
    lines = dots_runs.lines(ids, 0, round=3)
    (tmp_path / "o.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"no outcomes of round 0, which is to be drawn, but of o.jsonl, "):
        advance(run, references=tmp_path / "o.jsonl")


def test_fewer_references_than_asked_for_are_enough_where_the_run_says_so(tmp_path: Path) -> None:
    scored = dots_runs.begin(tmp_path / "first").config.scored
    run = runs.begin(
        tmp_path, scored=scored, strategy="dots", options=dots_runs.OPTIONS, min_coverage=0.8, budget=8
    )
    dots_runs.answer(run, 0, dots_runs.asked_of(run, 0)[:12])
    advance(run)
    told = run.plan(0)["references"]
    assert (told["observed"], told["left_out"], len(told["ids"])) == (12, 3, 15)
    assert not set(run.ids(0)) & set(told["ids"])


CHECKED: list[tuple[dict[str, Any], str]] = [
    ({"references": 53}, "--references 53 and 8 prompts to draw are more than the 60 of SET"),
    ({"group_column": "kind"}, "SET has no column 'kind'; it has question, "),
    ({"group_column": None, "adapter": "nowhere"}, "adapter HERE/nowhere is no fitted predictor"),
    ({"group_column": None, "adapter": "a", "target": "variance"}, "strategy dots: adapter predicts failure"),
    ({"rollout": {}}, "--rollout needs a verifier: "),
    ({"rollout": {"verifier": "exact", "model": "x"}}, "--rollout has no option 'model': the run settles"),
    ({"rollout": {"verifier": "exact"}}, "SET was scored without an answer column"),
    ({"rollout": {"verifier": "m:f", "samples": 1}, "target": "variance"}, "target = variance needs two"),
]


def test_what_will_not_work_is_said_at_the_start(tmp_path: Path) -> None:
    for options, sentence in CHECKED:
        with pytest.raises(InputError) as caught:
            dots_runs.begin(tmp_path, **options)
        expected = sentence.replace("SET", str(tmp_path / "set")).replace("HERE", str(Path.cwd()))
        assert str(caught.value).startswith(expected)
        assert not (tmp_path / "run").exists()


def test_a_set_without_embeddings_and_a_model_that_is_not_known(tmp_path: Path) -> None:
    plain = runs.some_set(tmp_path / "plain")
    with pytest.raises(InputError) as caught:
        runs.begin(tmp_path, scored=plain, strategy="dots", options={"references": 9})
    assert str(caught.value).startswith(f"{plain} has no gc_embedding, from which strategy dots predicts")
    options = {"references": 9, "group_column": "question", "rollout": {"verifier": "m:f"}}
    with pytest.raises(InputError) as other:
        runs.begin(tmp_path, scored=plain, strategy="dots", options=options, model=None)
    assert str(other.value).endswith("is not known; give --model, or a server in --rollout.")


def test_a_round_that_is_trained_anew_forgets_what_the_next_ones_references_did(tmp_path: Path) -> None:
    run = dots_runs.begin(tmp_path)
    step(run)
    runs.write(run, 0, dots_runs.lines(run.ids(0), 0, round=0))
    with pytest.raises(OutcomeError):
        advance(run)
    dots_runs.answer(run, 1)
    trainer = [*runs.COMMAND[:2], "{data}", "{round}", "x", "{outcomes}", "{output}"]
    result = gaincurate("schedule", "run", run.folder, "--retry", "--", *trainer)
    assert result.exit_code == 2
    assert "error: round 1 waits for the outcomes of its 15 reference prompts" in result.stderr
    assert (run.folder / "undone/difficulty-00001-1/references.jsonl").exists()
    assert not (run.references_folder(1) / "references.jsonl").exists()


def test_programs_and_a_start_take_outcomes_of_references_too(tmp_path: Path) -> None:
    run = dots_runs.begin(tmp_path)
    schedule = package.Schedule(run.folder)
    with pytest.raises(InputError, match="has no round yet: its strategy waits for something first"):
        _ = schedule.ids
    waiting = schedule.status()["difficulty"]["waiting"]
    ids = pq.read_table(waiting["prompts"]).column("gc_id").to_pylist()
    path = tmp_path / "o.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in dots_runs.lines(ids, 0)))
    assert (schedule.round, waiting["round"]) == (-1, 0)
    assert schedule.next(references=path)
    given = run.config.model_copy(update={"run": tmp_path / "other", "ascending": None})
    with pytest.raises(InputError, match="does not exist"):
        start(given, references=tmp_path / "none.jsonl")
    assert not given.run.exists()
    assert start(given, references=path).ids(0) == schedule.ids


def test_the_first_references_say_what_a_run_aims_at(tmp_path: Path) -> None:
    """Once for the whole run; a target that was given is aimed at."""
    run = dots_runs.begin(tmp_path, group_column=None)
    assert run.state["selector"] == {"aim": "auto"}
    first = step(run)
    told = first["references"]
    better = max(told["predictor"]["aims"], key=lambda aim: told["predictor"]["aims"][aim])
    assert told["target"] == better
    assert run.state["selector"] == {"aim": better}
    second = step(run)["references"]
    assert (second["target"], "aims" in second["predictor"]) == (better, False)
    facts = json.loads(gaincurate("schedule", "status", run.folder, "--json").stdout)["difficulty"]
    assert facts["target"] == better
    given = dots_runs.begin(tmp_path / "given", target_difficulty=0.4)
    assert given.state["selector"] == {}
    assert step(given)["references"]["target"] == "difficulty"

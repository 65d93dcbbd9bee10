"""The output head alone: the model's own logits, in bounded memory, or a refusal by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import tiny
from architectures import ARCHITECTURES, in_tiers
from gaincurate.errors import ModelError
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.signals import ENTRY_BYTES, Head


def rows(count: int = 2) -> list[Segmented]:
    random = np.random.default_rng(0)
    return [Segmented(random.integers(3, 500, 30).astype(np.int32), 5, 27) for _ in range(count)]


@pytest.mark.parametrize("kind", in_tiers(ARCHITECTURES))
def test_the_logits_are_the_models_own_bits_and_nothing_stays_behind(kind: Any) -> None:
    whole = tiny.model(kind.config())
    head, ids = Head(whole, 64), torch.from_numpy(rows()[0].token_ids).long()[None]
    with torch.inference_mode():
        result = whole(input_ids=ids, use_cache=False)
        final = Prefill(whole.base_model, site="final_norm", final=True).both(ids)[1]
        assert final is not None
        assert torch.equal(head.logits(final[0]), result.logits[0])
        assert torch.equal(whole(input_ids=ids, use_cache=False).logits, result.logits)
    for module in whole.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


class Peeking(transformers.LlamaForCausalLM):
    """Its logits depend on more than the final states."""

    def forward(self, input_ids: Any = None, **options: Any) -> Any:
        found = super().forward(input_ids=input_ids, **options)
        found.logits = found.logits + input_ids[..., None]
        return found


class Tupled(transformers.LlamaForCausalLM):
    """It gives no more than a tuple."""

    def forward(self, input_ids: Any = None, **options: Any) -> Any:
        return (super().forward(input_ids=input_ids, **options).logits,)


class Picky(transformers.LlamaForCausalLM):
    """It cannot be given another's states."""

    def forward(self, input_ids: Any = None, **options: Any) -> Any:
        if not input_ids.any():
            raise ValueError("nothing to read")
        return super().forward(input_ids=input_ids, **options)


class Alone(transformers.LlamaForCausalLM):
    """It is its own decoder."""

    base_model_prefix = "none"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Alone, "it has no decoder of its own"),
        (Peeking, r"logits differ from a plain forward's by \d\.\de[+-]\d\d"),
        (Tupled, "it does not say where its layers end"),
        (Picky, "ValueError: nothing to read"),
    ],
)
def test_a_head_that_is_not_the_models_own_way_is_refused_by_name(kind: Any, reason: str) -> None:
    whole = kind(transformers.LlamaConfig(**tiny.COMMON)).eval()
    sentence = f"the output head of llama cannot be run apart from its layers: {reason}. Leave nll and entropy out of --signals."
    with pytest.raises(ModelError, match=f"^{sentence}$"):
        Head(whole, 64).try_on(Prefill(whole.base_model, final=True), rows())
    assert not any("forward" in vars(module) for module in whole.modules())


def test_a_trial_holds_no_more_logits_than_the_memory_allows() -> None:
    whole, sizes = tiny.model(ARCHITECTURES[0].config()), list[int]()
    head, prefill = Head(whole, 64), Prefill(whole.base_model, final=True)
    head.rows = 21
    whole.lm_head.register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[1]))
    head.try_on(prefill, rows())
    assert max(sizes) == 5


PROGRAM = """
import sys
import numpy as np, torch, transformers
from gaincurate.scoring.signals import Head, likelihoods
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.segment import Segmented

def kilobytes(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

torch.manual_seed(0)
torch.set_num_threads(1)
VOCABULARY, MEMORY, QUESTION, ENTROPY = 150_000, 256, int(sys.argv[3]), sys.argv[4] == "True"
config = transformers.AutoConfig.for_model(sys.argv[1], vocab_size=VOCABULARY, hidden_size=8, intermediate_size=8,
    num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=8, max_position_embeddings=16_384)
dtype = getattr(torch, sys.argv[2])
whole = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
ids = np.random.default_rng(0).integers(3, VOCABULARY, QUESTION + 10).astype(np.int32)
prompt = Segmented(ids, 5, 5 + QUESTION)
head, prefill = Head(whole, MEMORY), Prefill(whole.base_model, final=True, tails=True)
states, largest = prefill([prompt]), [0]
whole.lm_head.register_forward_hook(lambda _m, _a, out: largest.append(out.numel()))
few = Segmented(ids[:12], 5, 10)
likelihoods(prefill([few]), [few], head, nll=True, entropy=ENTROPY)
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
WARM = len(largest)
before = kilobytes("VmRSS")
(found,) = likelihoods(states, [prompt], head, nll=True, entropy=ENTROPY)
growth = (kilobytes("VmHWM") - before) / 1024
assert found is not None and abs(found.nll - np.log(VOCABULARY)) < 1
print(growth, max(largest), len(largest) - WARM)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process's peak memory")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dtype", "tokens", "entropy"),
    [("llama", "float32", 8192, False), ("gemma2", "float32", 600, True), ("llama", "bfloat16", 600, True)],
)
def test_long_questions_stay_within_the_memory(kind: str, dtype: str, tokens: int, entropy: bool) -> None:
    """All 8,192 tokens' logits together would be 4.6 GiB; Gemma-2's soft cap makes a copy of its logits."""
    options = [kind, dtype, str(tokens), str(entropy)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    growth, largest, chunks = (float(value) for value in done.stdout.split())
    assert growth <= 256  # MiB
    assert 0.9 * 256 * 2**20 < largest * ENTRY_BYTES <= 256 * 2**20
    assert chunks == -(-(tokens + entropy) // (largest // 150_000))  # and the last token of the prompt

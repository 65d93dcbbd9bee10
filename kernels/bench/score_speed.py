"""Times scoring of made-up prompts, one prompt at a time, and the matrix products alone.

Usage: PYTHONPATH=.:kernels python3 kernels/bench/score_speed.py [--model demo] [--dtype D] [--passes 3]. In
place of a model, --shape takes random weights of the shape of a Qwen2.5 (0.5B, 1.5B, 7B). Prints CSV. Each
rate of products is measured just before and after its pass, so that a slow machine slows both.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.kernel_speed import machine, print_rows, seconds
from gaincurate.scoring.config import MachineConfig
from gaincurate.scoring.model import find_model, load_config, load_model
from gaincurate.scoring.packed_attention import UnsupportedAttention
from gaincurate.scoring.packed_prefill import PackedPrefill
from gaincurate.scoring.plan import model_max_length, resolve_machine
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.signals import angle_scores
from gaincurate.scoring.worker import settle_memory

QWEN = {
    "0.5B": (896, 4864, 24, 14, 2),
    "1.5B": (1536, 8960, 28, 12, 2),
    "7B": (3584, 18944, 28, 28, 4),
}
"""Hidden and intermediate size, layers, heads, key heads."""
_SHORTEST, _LONGEST, _TAIL = 8, 2048, 5  # tokens of a made-up question, and after it


def made_up_prompts(count: int, *, prefix: int, vocab_size: int, limit: int | None = None) -> list[Segmented]:
    """Random tokens with one prefix and questions as long as MATH's (log-normal, median 64).

    All begin with the same `prefix` tokens. The model has positions for `limit` tokens (None: no limit).
    """
    longest = _LONGEST if limit is None else min(_LONGEST, limit - prefix - _TAIL)
    random, least = np.random.default_rng(0), min(3, vocab_size - 1)
    common = random.integers(least, vocab_size, prefix).astype(np.int32)
    lengths = np.clip(np.exp(random.normal(np.log(64), 0.63, count)), _SHORTEST, longest).astype(int)
    prompts = []
    for length in lengths.tolist():
        rest = random.integers(least, vocab_size, length + _TAIL).astype(np.int32)
        prompts.append(Segmented(np.concatenate([common, rest]), prefix, prefix + length))
    return prompts


def measure(
    model: nn.Module,
    prompts: Sequence[Segmented],
    *,
    budget: int,
    passes: int,
    one_by_one: int,
    float32: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Time every way; medians over the passes, in which the ways alternate.

    `model` is a decoder without its head, in the dtype and on the device to measure. The slowest way runs
    `one_by_one` prompts, evenly chosen, also with `float32`: the same model as the released script runs it.

    Returns:
        By way: rows and tokens per second; `times` the rows of the first way; and `of_gemm`, operations of
        the linear layers per second over those of `torch.nn.functional.linear` alone at the same shapes.
    """
    prefill = Prefill(model)
    few = [prompts[i] for i in np.linspace(0, len(prompts) - 1, min(one_by_one, len(prompts))).astype(int)]
    # Each runs prompts and returns the numbers of prompts and of computed tokens.
    ways: dict[str, Callable[[], tuple[int, int]]] = {
        "one prompt at a time": partial(_one_by_one, model, few)
    }
    if float32 is not None:
        ways["one prompt at a time, float32"] = partial(_one_by_one, float32, few)
    ways["padded batches"] = partial(_batches, prefill, prompts, budget)
    with suppress(UnsupportedAttention):  # the table then has no such line
        packed = PackedPrefill(prefill, prompts[:2])
        packed.give_back()
        ways[packed.name] = partial(_batches, packed, prompts, budget)
    operations = gemm_operations(prefill, prompts[0])
    figures = np.zeros((passes + 1, len(ways), 3))  # rows/s, tokens/s, of_gemm
    for figures_of_pass in figures:
        for place, way in enumerate(ways.values()):
            # Before and after each pass, because other work on the machine slows both.
            gemm_before = gemm_speed(model, budget)
            begin = time.perf_counter()
            rows, tokens = way()  # it reads scores, so a GPU has finished
            taken = time.perf_counter() - begin
            gemm = (gemm_before + gemm_speed(model, budget)) / 2
            share = tokens * operations / taken / gemm
            figures_of_pass[place] = rows / taken, tokens / taken, share
    figures = figures[1:]  # the first pass warms up
    times = np.median(figures[:, :, 0] / figures[:, :1, 0], 0).tolist()
    table = []
    for name, (*rates, share), of_first in zip(ways, np.median(figures, 0).tolist(), times, strict=True):
        row = {"method": name, "rows/s": rates[0], "tokens/s": rates[1], "times": of_first}
        table.append(row | {"of_gemm": "" if name.startswith("one") else share})
    return table


def _batches(forward: Prefill | PackedPrefill, prompts: Sequence[Segmented], budget: int) -> tuple[int, int]:
    tokens = 0
    if isinstance(forward, PackedPrefill):
        forward.take()
    for batch in forward.run(prompts, budget):
        angle_scores(batch.states, [prompts[place] for place in batch.places])
        tokens += batch.tokens
    if isinstance(forward, PackedPrefill):
        forward.give_back()  # the other ways run the model as its authors wrote it
    return len(prompts), tokens


@torch.inference_mode()
def _one_by_one(model: nn.Module, prompts: Sequence[Segmented]) -> tuple[int, int]:
    """Run the whole model and its head on each prompt, and all pairwise cosines of the last states."""
    anything: Any = model
    head = anything.get_input_embeddings().weight  # an output head has its shape
    tokens = 0
    for prompt in prompts:
        ids = torch.from_numpy(prompt.token_ids).long()[None].to(head.device)
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
        _ = states @ head.T
        units = torch.nn.functional.normalize(states[0, : prompt.end].float(), dim=-1)
        question = (units @ units.T)[prompt.prefix :]
        float(question[:, prompt.prefix :].mean() + question[:, : prompt.prefix].mean())
        tokens += ids.shape[1]
    return len(prompts), tokens


def gemm_speed(model: nn.Module, rows: int) -> float:
    """Operations per second of the model's linear layers alone, `rows` tokens at a time."""
    shapes = Counter(tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear))
    some, operations, taken = next(model.parameters()), 0, 0.0
    for (out, into), count in shapes.items():
        states = torch.randn(rows, into, dtype=some.dtype, device=some.device)
        layer = nn.Linear(into, out, bias=False, dtype=some.dtype, device=some.device)
        operations += count * 2 * rows * out * into
        taken += count * seconds(layer, [states], 0.02)
    return operations / taken


def gemm_operations(prefill: Prefill, prompt: Segmented) -> float:
    """Operations of the linear layers for one token, up to the scored tensor; attention is not counted."""
    with FlopCounterMode(display=False) as counter:
        prefill([prompt])
    counts, products = counter.get_flop_counts()["Global"], (torch.ops.aten.mm, torch.ops.aten.addmm)
    return float(sum(counts.get(product, 0) for product in products) / prompt.end)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--shape", choices=QWEN)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--rows", type=int, default=120, help="made-up prompts, as long as MATH's")
    parser.add_argument("--prefix", type=int, default=115, help="tokens that all prompts begin with")
    parser.add_argument("--passes", type=int, default=3, help="how often each way runs")
    given = parser.parse_args()
    options = {"dtype": given.dtype, "device": given.device, "batch_tokens": given.batch_tokens}
    resolved = resolve_machine(MachineConfig(**options))
    device = resolved.devices[0]
    if resolved.type == "cpu":
        settle_memory()
    files = None if given.shape else find_model(given.model)
    if files is None:
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        sizes: dict[str, Any] = dict(zip((*names, "num_key_value_heads"), QWEN[given.shape], strict=True))
        config: Any = transformers.Qwen2Config(**sizes, vocab_size=151936)
    else:
        config = load_config(files)

    def load(dtype: str) -> Any:
        if files is not None:
            return load_model(files, config, device=device, dtype=dtype)
        with torch.device(device):
            return transformers.AutoModel.from_config(config, dtype=getattr(torch, dtype)).eval()

    vocab_size, limit = config.get_text_config(decoder=True).vocab_size, model_max_length(config)
    table = measure(
        load(resolved.dtype),
        made_up_prompts(given.rows, prefix=given.prefix, vocab_size=vocab_size, limit=limit),
        budget=resolved.batch_tokens,
        passes=given.passes,
        one_by_one=20,
        float32=load("float32") if resolved.type == "cpu" and resolved.dtype != "float32" else None,
    )
    print(f"{machine(device)}, {given.shape or given.model}, {resolved.dtype}")
    print_rows(table)


if __name__ == "__main__":
    main()

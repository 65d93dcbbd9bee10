"""Times passes of scoring over made-up prompts against one prompt at a time and the matrix products alone.

Usage: PYTHONPATH=.:kernels python3 kernels/bench/score_speed.py [--model demo] [--dtype D] [--passes 3].
Each rate is measured in the same run and beside the pass, so that a slow machine slows both.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.kernel_speed import machine, print_rows
from gaincurate.scoring.config import MachineConfig
from gaincurate.scoring.cpu import LaidOut, settle_memory
from gaincurate.scoring.identity import model_max_length, resolve_machine
from gaincurate.scoring.model import find_model, load_config, load_model
from gaincurate.scoring.packed_attention import UnsupportedAttention
from gaincurate.scoring.packed_prefill import PackedPrefill
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.signals import angle_scores

ONE_BY_ONE = "one prompt at a time"
IN_FLOAT32 = "one prompt at a time, float32"
BATCHED = ("padded batches", "packed", "packed, plain products")
_TAIL = 5  # tokens after each made-up question
_SHORTEST, _LONGEST = 8, 2048  # tokens of one

Counts = tuple[int, int]
"""Rows and computed tokens."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One way: medians over the passes. Shares are None where no linear layer of torch's own was counted."""

    method: str
    rows_per_second: float
    tokens_per_second: float
    times_one_by_one: float
    """Rows in a second over those of one prompt at a time, in the same dtype."""
    share_of_gemm: float | None
    """Operations in a second over those of `torch.nn.functional.linear` alone at the model's shapes."""
    share_of_fastest: float | None
    """The same over the faster of those and of products with weights laid out once."""
    peak_gib: float | None
    """Of a GPU's memory, weights included; the most that a pass took."""


def made_up_prompts(
    count: int, *, prefix: int, vocab_size: int, limit: int | None = None, seed: int = 0
) -> list[Segmented]:
    """Random tokens of real lengths: one prefix, and questions as long as MATH's (median 64, log-normal).

    Args:
        count: of prompts.
        prefix: tokens that all begin with.
        vocab_size: of the model, at least 2.
        limit: tokens that the model has positions for; None for any number.
        seed: of the tokens and lengths.

    Raises:
        ValueError: prefix and a question are past the limit.
    """
    longest = _LONGEST if limit is None else min(_LONGEST, limit - prefix - _TAIL)
    if longest < _SHORTEST:
        raise ValueError(
            f"{prefix} tokens and a question of {_SHORTEST} are past the model's {limit} positions"
        )
    random, least = np.random.default_rng(seed), min(3, vocab_size - 1)
    common = random.integers(least, vocab_size, prefix)
    lengths = np.clip(np.exp(random.normal(np.log(64), 0.63, count)), _SHORTEST, longest).astype(int)
    prompts = []
    for length in lengths:
        tokens = np.concatenate([common, random.integers(least, vocab_size, length + _TAIL)])
        prompts.append(Segmented(tokens.astype(np.int32), prefix, prefix + int(length)))
    return prompts


def measure(
    model: nn.Module,
    prompts: Sequence[Segmented],
    *,
    budget: int,
    passes: int,
    one_by_one: int,
    float32: nn.Module | None = None,
) -> list[Rate]:
    """Time every way.

    Args:
        model: a decoder without its head, in the dtype and on the device to measure.
        prompts: what is run, in this order.
        budget: tokens in a batch.
        passes: how often each way runs; they alternate.
        one_by_one: prompts for the slowest way, evenly chosen.
        float32: the same model in float32, as the released script runs it; timed too.
    """
    prefill = Prefill(model)
    few = [prompts[i] for i in np.linspace(0, len(prompts) - 1, min(one_by_one, len(prompts))).astype(int)]

    ways: dict[str, Callable[[], Counts]] = {ONE_BY_ONE: lambda: _one_by_one(model, few)}
    if float32 is not None:
        ways[IN_FLOAT32] = lambda: _one_by_one(float32, few)
    ways["padded batches"] = lambda: run_batches(prefill, prompts, budget)
    around: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {}
    with contextlib.suppress(UnsupportedAttention):  # the table then has no such line
        packed = PackedPrefill(prefill)
        packed.try_on(prompts[:2])
        packed.give_back()
        ways[packed.name], around[packed.name] = (
            lambda: run_batches(packed, prompts, budget),
            lambda: _taken(packed),
        )
    per_token = _gemm_flops(prefill, prompts[0])
    device = next(model.parameters()).device
    taken: dict[str, list[list[float]]] = {name: [] for name in ways}
    for index in range(passes + 1):
        for name, way in ways.items():
            # Before and after each pass, because other work on the machine slows both.
            speeds = gemm_speeds(model, budget) if per_token and name in BATCHED else None
            with around.get(name, contextlib.nullcontext)():
                timed = _run(way, device)
            if speeds is not None:
                after = gemm_speeds(model, budget)
                operations = timed[1] * per_token / timed[2]
                timed += [2 * operations / (x + y) for x, y in zip(speeds, after, strict=True)]
            if index:  # the first pass warms up
                taken[name].append(timed)
    return [_rate(name, taken) for name in ways]


@contextlib.contextmanager
def _taken(packed: PackedPrefill) -> Iterator[None]:
    """The model's attention and linear layers are exchanged within it."""
    packed.take()
    try:
        yield
    finally:
        packed.give_back()


def _run(way: Callable[[], Counts], device: torch.device) -> list[float]:
    """Rows, tokens, seconds and GiB at most; 0 where it is no GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begin = time.perf_counter()
    rows, tokens = way()
    _wait(device)
    seconds = time.perf_counter() - begin
    return [
        rows,
        tokens,
        seconds,
        torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0,
    ]


def _rate(name: str, taken: dict[str, list[list[float]]]) -> Rate:
    passes, slow = np.array(taken[name]), np.array(taken[ONE_BY_ONE])
    rows, tokens, seconds = passes[:, :3].T
    times = (rows / seconds) / (slow[:, 0] / slow[:, 2])
    gemm, fastest = np.median(passes[:, 4:], 0).tolist() or (None, None)
    per_second, tokens_per_second, faster = (
        float(np.median(values)) for values in (rows / seconds, tokens / seconds, times)
    )
    return Rate(name, per_second, tokens_per_second, faster, gemm, fastest, passes[:, 3].max() or None)


def run_batches(forward: Prefill | PackedPrefill, prompts: Sequence[Segmented], budget: int) -> Counts:
    """One pass in batches, with the angle scores of each."""
    tokens = 0
    for batch in forward.run(prompts, budget):
        angle_scores(batch.states, [prompts[place] for place in batch.places])
        tokens += batch.tokens
    return len(prompts), tokens


@torch.inference_mode()
def _one_by_one(model: nn.Module, prompts: Sequence[Segmented]) -> Counts:
    """The whole model and its head on each prompt, all pairwise cosines of the last states."""
    anything: Any = model
    head = anything.get_input_embeddings().weight  # an output head has its shape
    tokens = 0
    for prompt in prompts:
        ids = torch.from_numpy(prompt.token_ids).long()[None].to(head.device)
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
        _ = states @ head.T
        units = torch.nn.functional.normalize(states[0, : prompt.end].float(), dim=-1)
        cosines = units @ units.T
        question = cosines[prompt.prefix :]
        float(question[:, prompt.prefix :].mean() + question[:, : prompt.prefix].mean())
        tokens += ids.shape[1]
    return len(prompts), tokens


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def gemm_speeds(model: nn.Module, rows: int, repeats: int = 3) -> tuple[float, float]:
    """Operations in a second of the model's matrix products, so many rows at a time, each alone in a loop.

    Returns:
        By `torch.nn.functional.linear`, and by the faster of that and of weights laid out once.
    """
    shapes = Counter(tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear))
    some = next(model.parameters())
    operations, taken = 0.0, [0.0, 0.0]
    for (out, into), count in shapes.items():
        states = torch.randn(rows, into, dtype=some.dtype, device=some.device)
        layer = nn.Linear(into, out, bias=False, dtype=some.dtype, device=some.device)
        plain = _seconds(layer, states, repeats)
        laid_out = LaidOut(layer)
        laid_out.take()
        other = _seconds(layer, states, repeats) if laid_out else plain
        operations += count * 2 * rows * out * into
        taken[0] += count * plain
        taken[1] += count * min(plain, other)
    return operations / taken[0], operations / taken[1]


def _seconds(layer: nn.Module, states: Tensor, repeats: int) -> float:
    """One call's, the median of calls in fours; the first two fours warm up."""
    times = []
    for index in range(repeats + 2):
        begin = time.perf_counter()
        for _ in range(4):
            layer(states)
        _wait(states.device)
        if index >= 2:
            times.append((time.perf_counter() - begin) / 4)
    return statistics.median(times)


def _gemm_flops(prefill: Prefill, prompt: Segmented) -> float:
    """Operations of the linear layers for one token, up to the scored tensor; attention is not counted."""
    counted = [0]

    def count(module: nn.Module, args: tuple[Any, ...], _: Any) -> None:
        states: Tensor = args[0]
        weight: Any = module.weight
        counted[0] += 2 * states.numel() * len(weight)

    handles = [m.register_forward_hook(count) for m in prefill.model.modules() if isinstance(m, nn.Linear)]
    try:
        prefill([prompt])
    finally:
        for handle in handles:
            handle.remove()
    return counted[0] / prompt.end


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=120, help="made-up prompts, as long as MATH's")
    parser.add_argument("--passes", type=int, default=3, help="how often each way runs")
    given = parser.parse_args()
    resolved = resolve_machine(MachineConfig(dtype=given.dtype, device=given.device))
    if resolved.type == "cpu":
        settle_memory()
    files = find_model(given.model)
    config = load_config(files)
    load = partial(load_model, files, config, device=resolved.devices[0])
    vocab_size, limit = config.get_text_config(decoder=True).vocab_size, model_max_length(config)
    prompts = made_up_prompts(given.rows, prefix=115, vocab_size=vocab_size, limit=limit)
    rates = measure(
        load(dtype=resolved.dtype),
        prompts,
        budget=resolved.batch_tokens,
        passes=given.passes,
        one_by_one=20,
        float32=load(dtype="float32") if resolved.type == "cpu" and resolved.dtype != "float32" else None,
    )
    facts = {**machine(resolved.devices[0]), "model": given.model, "dtype": resolved.dtype}
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print("  " + ", ".join(asdict(rates[0])).replace("_", " "))
    print_rows([asdict(rate) for rate in rates])


if __name__ == "__main__":
    main()

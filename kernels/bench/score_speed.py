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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.kernel_speed import machine, print_rows
from gaincurate.scoring.angle import angle_scores
from gaincurate.scoring.config import MachineConfig
from gaincurate.scoring.cpu import LaidOut, settle_memory
from gaincurate.scoring.identity import model_max_length, resolve_machine
from gaincurate.scoring.model import find_model, load_config, load_model
from gaincurate.scoring.packed_attention import UnsupportedAttention
from gaincurate.scoring.packed_prefill import PackedPrefill
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.segment import Segmented

ONE_BY_ONE = "one prompt at a time"
IN_FLOAT32 = "one prompt at a time, float32"
_TAIL = 5  # tokens after each made-up question
_SHORTEST, _LONGEST = 8, 2048  # tokens of one

Counts = tuple[int, int, float]
"""Rows, computed tokens, seconds in the angle code."""
Speeds = tuple[float, float]
"""Operations in a second of a model's matrix products: by `torch.nn.functional.linear`, and by the faster of
that and of weights laid out once (`products`)."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One way: median rows and computed tokens in a second, the times as fast as one prompt at a time (in
    the same dtype, in one process with all threads), the shares of the device's matrix-product speeds (None
    where its products were not counted), the share of the time in the angle code.
    """

    method: str
    rows_per_second: float
    tokens_per_second: float
    times_one_by_one: float
    share_of_gemm: float | None
    """Of `torch.nn.functional.linear` at the model's shapes."""
    share_of_fastest: float | None
    """Of the fastest product known here."""
    share_in_angle: float | None
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

    ways = {ONE_BY_ONE: _Way(lambda: _one_by_one(model, few))}
    if float32 is not None:
        ways[IN_FLOAT32] = _Way(lambda: _one_by_one(float32, few))
    per_token = _gemm_flops(prefill, prompts[0])
    # A model may have no linear layers of torch's own, as GPT-2: then there is no share to tell.
    products = partial(gemm_speeds, model, budget) if per_token else None
    ways["padded batches"] = _Way(lambda: run_batches(prefill, prompts, budget), products)
    with contextlib.suppress(UnsupportedAttention):  # the table then has no such line
        packed = PackedPrefill(prefill)
        packed.try_on(prompts[:2])
        packed.give_back()
        ways[packed.name] = _Way(lambda: run_batches(packed, prompts, budget), products, packed.taken)
    passed: dict[str, list[_Pass]] = {name: [] for name in ways}
    device = next(model.parameters()).device
    for index in range(passes + 1):
        for name, way in ways.items():
            timed = _run(way, device)
            if index:  # the first pass warms up
                passed[name].append(timed)
    return [_rate(name, passed, per_token) for name in ways]


@dataclass(frozen=True, slots=True)
class _Way:
    """What is timed, the products that run beside it (None: not counted), and what holds around it."""

    run: Callable[[], Counts]
    products: Callable[[], Speeds] | None = None
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def _run(way: _Way, device: torch.device) -> _Pass:
    before = way.products and way.products()
    with way.around():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        begin = time.perf_counter()
        rows, tokens, angle = way.run()
        _wait(device)
        seconds = time.perf_counter() - begin
        peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return _Pass(seconds, rows, tokens, angle, before, way.products and way.products(), peak)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass of one way, and how fast the products were before and after it."""

    seconds: float
    rows: int
    tokens: int
    angle: float
    before: Speeds | None
    after: Speeds | None
    peak: float | None

    def share(self, which: int, per_token: float) -> float | None:
        """Of the products' speed, the mean of before and after: other work on the machine slows both."""
        if self.before is None or self.after is None:
            return None
        return self.tokens * per_token / self.seconds / ((self.before[which] + self.after[which]) / 2)


def _rate(name: str, passed: dict[str, list[_Pass]], per_token: float) -> Rate:
    passes, baseline = passed[name], passed[ONE_BY_ONE]
    ratios = [(b.seconds / b.rows) / (a.seconds / a.rows) for a, b in zip(passes, baseline, strict=True)]

    def share(which: int) -> float | None:
        shares = [value for timed in passes if (value := timed.share(which, per_token)) is not None]
        return statistics.median(shares) if shares else None

    return Rate(
        name,
        statistics.median(timed.rows / timed.seconds for timed in passes),
        statistics.median(timed.tokens / timed.seconds for timed in passes),
        statistics.median(ratios),
        share(0),
        share(1),
        None
        if passes[0].before is None
        else statistics.median(timed.angle / timed.seconds for timed in passes),
        max((timed.peak for timed in passes if timed.peak is not None), default=None),
    )


def run_batches(forward: Prefill | PackedPrefill, prompts: Sequence[Segmented], budget: int) -> Counts:
    """One pass in batches, with the angle scores of each."""
    tokens, angle = 0, 0.0
    for batch in forward.run(prompts, budget):
        _wait(batch.states.hidden.device)
        begin = time.perf_counter()
        angle_scores(batch.states, [prompts[place] for place in batch.places])
        angle += time.perf_counter() - begin
        tokens += batch.tokens
    return len(prompts), tokens, angle


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
    return len(prompts), tokens, 0.0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def gemm_speeds(model: nn.Module, rows: int, repeats: int = 3) -> Speeds:
    """How fast the model's own matrix products are, so many rows at a time.

    Each product alone, in a loop: what a forward that did nothing else would reach.
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

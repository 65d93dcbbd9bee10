"""How fast scoring is here: takes a loaded model and prompts, yields rates beside others measured in turn.

Beside the packed forward stand the padded one and the way of the released script (one prompt at a time
through the whole model, the output head and a matrix of all cosines), written anew; and the speed of the
matrix products alone. Passes alternate, and medians are of paired passes. Knows nothing of files.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gaincurate.scoring.angle import angle_scores
from gaincurate.scoring.attention import UnsupportedAttention
from gaincurate.scoring.packed import PackedPrefill
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.segment import Segmented

ONE_BY_ONE = "one prompt at a time"
IN_FLOAT32 = "one prompt at a time, float32"
_TAIL = 5

Counts = tuple[int, int, float]
"""Rows, computed tokens, seconds in the angle code."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One way: median rows and computed tokens in a second, the times as fast as one prompt at a time (in
    the same dtype, in one process with all threads), the share of the device's matrix-product speed (None
    where its products were not counted), the share of the time in the angle code.
    """

    method: str
    rows_per_second: float
    tokens_per_second: float
    times_one_by_one: float
    share_of_gemm: float | None
    share_in_angle: float | None


def made_up_prompts(count: int, *, prefix: int, vocab_size: int, seed: int = 0) -> list[Segmented]:
    """Random tokens of real lengths: one prefix, and questions as long as MATH's (median 64, log-normal)."""
    random = np.random.default_rng(seed)
    common = random.integers(3, vocab_size, prefix)
    lengths = np.clip(np.exp(random.normal(np.log(64), 0.63, count)), 8, 2048).astype(int)
    prompts = []
    for length in lengths:
        tokens = np.concatenate([common, random.integers(3, vocab_size, length + _TAIL)])
        prompts.append(Segmented(tokens.astype(np.int32), prefix, prefix + int(length)))
    return prompts


class Together(Protocol):
    """Several processes that run the packed forward at once (`crew.Crew`)."""

    name: str

    def run(self) -> Counts:
        """One pass over all prompts."""

    def gemm_speed(self) -> float:
        """Of all of them at once."""


def measure(
    model: nn.Module,
    prompts: Sequence[Segmented],
    *,
    budget: int,
    passes: int,
    one_by_one: int,
    float32: nn.Module | None = None,
    together: Together | None = None,
) -> list[Rate]:
    """Time every way.

    Args:
        model: a decoder without its head, in the dtype and on the device to measure.
        prompts: what is run, in this order.
        budget: tokens in a batch.
        passes: how often each way runs; they alternate.
        one_by_one: prompts for the slowest way, evenly chosen.
        float32: the same model in float32, as the released script runs it; timed too.
        together: processes that run the same prompts; timed too, while this one waits.
    """
    # The packed forward exchanges the model's attention, so each way switches to its own before it runs.
    config: Any = model.config
    plain = config._attn_implementation
    prefill = Prefill(model)
    few = [prompts[i] for i in np.linspace(0, len(prompts) - 1, min(one_by_one, len(prompts))).astype(int)]
    ways: dict[str, Callable[[], Counts]] = {ONE_BY_ONE: lambda: _one_by_one(model, few)}
    if float32 is not None:
        ways[IN_FLOAT32] = lambda: _one_by_one(float32, few)
    ways["padded batches"] = lambda: run_batches(prefill, prompts, budget)
    names = {}  # of the attention, where it is not the model's own
    try:
        packed = PackedPrefill(prefill)
        packed.try_on(prompts[:2])
        ways["packed"] = lambda: run_batches(packed, prompts, budget)
        names["packed"] = config._attn_implementation
    except UnsupportedAttention:
        pass  # the table then has no such line
    if together is not None:
        ways[together.name] = together.run
    exchange: Any = model
    seconds: dict[str, list[tuple[float, int, int, float]]] = {name: [] for name in ways}
    for index in range(passes + 1):
        for name, way in ways.items():
            exchange.set_attn_implementation(names.get(name, plain))
            begin = time.perf_counter()
            rows, tokens, angle = way()
            _wait(model)
            if index:  # the first pass warms up
                seconds[name].append((time.perf_counter() - begin, rows, tokens, angle))
    exchange.set_attn_implementation(plain)  # as it was found
    per_token = _gemm_flops(prefill, prompts[0])
    peaks = dict.fromkeys(ways, gemm_speed(model, budget))
    if together is not None:
        peaks[together.name] = together.gemm_speed()
    return [_rate(name, seconds, per_token / peaks[name]) for name in ways]


def _rate(name: str, all_seconds: dict[str, list[tuple[float, int, int, float]]], gemm: float) -> Rate:
    own, slow = all_seconds[name], all_seconds[ONE_BY_ONE]
    whole = name in (ONE_BY_ONE, IN_FLOAT32)
    ratios = [(b[0] / b[1]) / (a[0] / a[1]) for a, b in zip(own, slow, strict=True)]
    tokens = statistics.median(n / taken for taken, _, n, _ in own)
    return Rate(
        name,
        statistics.median(rows / taken for taken, rows, _, _ in own),
        tokens,
        statistics.median(ratios),
        None if whole else tokens * gemm,
        None if whole else statistics.median(angle / taken for taken, _, _, angle in own),
    )


def run_batches(forward: Prefill | PackedPrefill, prompts: Sequence[Segmented], budget: int) -> Counts:
    """One pass in batches, with the angle scores of each."""
    tokens, angle = 0, 0.0
    for batch in forward.run(prompts, budget):
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


def _wait(model: nn.Module) -> None:
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def gemm_speed(model: nn.Module, rows: int, repeats: int = 9) -> float:
    """Floating-point operations in a second of the model's own matrix products, so many rows at a time.

    Each product alone, in a loop: what a forward that did nothing else would reach.
    """
    shapes = Counter(tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear))
    some = next(model.parameters())
    operations = taken = 0.0
    for (out, into), count in shapes.items():
        states = torch.randn(rows, into, dtype=some.dtype, device=some.device)
        weight = torch.randn(out, into, dtype=some.dtype, device=some.device)
        times = []
        for index in range(repeats + 2):
            begin = time.perf_counter()
            for _ in range(4):
                torch.nn.functional.linear(states, weight)
            _wait(model)
            if index >= 2:
                times.append((time.perf_counter() - begin) / 4)
        operations += count * 2 * rows * out * into
        taken += count * statistics.median(times)
    return operations / taken


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

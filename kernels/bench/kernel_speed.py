"""Times the angle code on this machine against PyTorch, torch.compile and the matrix of all pairs.

Usage: PYTHONPATH=kernels python3 kernels/bench/kernel_speed.py [--device cpu|cuda] [--dtype D].
A correctness check comes first, and no speed is given for a wrong result. On a GPU each way is captured as
a graph, so that its own launches cost nothing, and so is ours with its plan of the chunks made before;
large shapes read several buffers in turn, so that no cache holds them. Everywhere figures are medians, and
ratios within one run are what to compare.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gaincurate_kernels.angle import angle_concentration, resolve_backend, segment_unit_sums, triton_version
from gaincurate_kernels.reference import quadratic

TOLERANCE = 2e-6
SHAPES = {"cuda": [(65536, 3584), (262144, 896)], "cpu": [(8192, 896)]}
"""Tokens and hidden size, in prompts of 2,048 tokens."""
_COPY_BYTES = {"cuda": 2**30, "cpu": 2**28}
_BUFFER_BYTES = {"cuda": 2**29, "cpu": 2**27}  # read in turn: several times any cache


@dataclass(frozen=True, slots=True)
class Shape:
    """`tokens` rows of `hidden` columns, in samples of `sample` tokens, of each a quarter prefix."""

    tokens: int
    hidden: int
    sample: int
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Of the states, each read once."""
        return self.tokens * self.hidden * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Measurement:
    """One way at one shape: median milliseconds, GB/s of states read, and per cent of the copy bandwidth."""

    method: str
    dtype: str
    tokens: int
    hidden: int
    sample: int
    milliseconds: float
    gigabytes_per_second: float
    percent_of_copy: float


class WrongResult(Exception):
    """The code under test does not compute what it should; nothing was timed."""


def machine(device: str) -> dict[str, str]:
    """What figures are worth nothing without: device and versions."""
    kind = torch.device(device).type
    name = (
        torch.cuda.get_device_name(device) if kind == "cuda" else platform.processor() or platform.machine()
    )
    found = {"device": name, "torch": torch.__version__, "triton": triton_version() or "none"}
    return found | ({"threads": str(torch.get_num_threads())} if kind == "cpu" else {})


def copy_bandwidth(device: str) -> float:
    """GB/s of a copy from the device's memory to itself, bytes read and written together."""
    size = _COPY_BYTES[torch.device(device).type]
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda _: target.copy_(source), [source], device) / 1e9


def measure(shape: Shape, device: str, copy: float, *, compiled: bool, matrix: bool) -> list[Measurement]:
    """Time our code against others at one shape.

    Args:
        shape: what to read.
        device: `cpu`, `cuda` or `cuda:N`.
        copy: the device's copy bandwidth in GB/s.
        compiled: also time `torch.compile` of the linear form.
        matrix: also time all pairwise cosines, in float32 without TF32 and in bfloat16.

    Raises:
        WrongResult: our result is off by more than 2e-6.
    """
    kind = torch.device(device).type
    count = max(2, -(-_BUFFER_BYTES[kind] // shape.bytes))
    generator = torch.Generator(device).manual_seed(0)
    size = (shape.tokens, shape.hidden)
    buffers = [
        (torch.randn(size, generator=generator, device=device) + 0.3).to(shape.dtype)
        for _ in range(min(count, 32))
    ]
    check(buffers[0], shape)
    ways: dict[str, Callable[[Tensor], Any]] = {"gaincurate": _ours(shape, device)}
    ways["torch, linear time"] = lambda hidden: linear(hidden, shape.sample)
    if compiled:
        fast = torch.compile(linear, dynamic=False)
        ways["torch.compile, linear time"] = lambda hidden: fast(hidden, shape.sample)
    if matrix:
        ways["T x T matrix, float32"] = lambda hidden: pairwise(hidden, shape.sample, torch.float32)
        ways["T x T matrix, bfloat16"] = lambda hidden: pairwise(hidden, shape.sample, torch.bfloat16)
    name = str(shape.dtype).removeprefix("torch.")
    found = []
    for method, way in ways.items():
        taken = seconds(way, buffers, device)
        rate = shape.bytes / taken / 1e9
        found.append(Measurement(method, name, *size, shape.sample, taken * 1e3, rate, 100 * rate / copy))
    return found


def bounds_of(shape: Shape) -> Tensor:
    """Questions, then prefixes, `[2 * samples, 2]`."""
    starts = torch.arange(0, shape.tokens, shape.sample)
    middles, ends = starts + shape.sample // 4, starts + shape.sample
    return torch.cat([torch.stack([middles, ends], 1), torch.stack([starts, middles], 1)])


def check(hidden: Tensor, shape: Shape) -> None:
    """Hold the first and the last samples against the definition in float64.

    Raises:
        WrongResult: with the largest difference.
    """
    samples = shape.tokens // shape.sample
    sums = segment_unit_sums(hidden, bounds_of(shape))
    found = angle_concentration(sums.rows(0, samples), sums.rows(samples, 2 * samples))
    worst = 0.0
    for row in {0, samples // 2, samples - 1}:
        own = hidden[row * shape.sample : (row + 1) * shape.sample].cpu()
        terms = (found.intra[row], found.inter[row], found.intra_offdiag[row])
        exact = quadratic(own, shape.sample // 4, shape.sample)
        gaps = [abs(float(term) - value) for term, value in zip(terms, exact, strict=True)]
        worst = max([worst, *(gap if gap == gap else float("inf") for gap in gaps)])
    if worst > TOLERANCE:
        raise WrongResult(
            f"off by {worst:.1e} at {shape.tokens:,} x {shape.hidden:,}, more than {TOLERANCE:.0e}"
        )


def _ours(shape: Shape, device: str) -> Callable[[Tensor], Any]:
    bounds, samples = bounds_of(shape), shape.tokens // shape.sample
    kind = torch.device(device).type
    if resolve_backend("auto", device=kind, hidden=shape.hidden, dtype=shape.dtype) == "torch":
        make: Callable[[Tensor], Any] = lambda hidden: segment_unit_sums(hidden, bounds)  # noqa: E731
    else:
        from gaincurate_kernels.launch import make_plan, planned_unit_sums

        plan = make_plan(bounds, torch.device(device))
        make = lambda hidden: planned_unit_sums(hidden, plan)  # noqa: E731

    def run(hidden: Tensor) -> Any:
        sums = make(hidden)
        return angle_concentration(sums.rows(0, samples), sums.rows(samples, 2 * samples))

    return run


def linear(hidden: Tensor, sample: int) -> tuple[Tensor, Tensor]:
    """C_intra and C_inter by sums of unit vectors, as one writes it in PyTorch.

    All samples being equally long, it may sum a reshaped tensor: real prompts do not allow that.
    """
    units = torch.nn.functional.normalize(hidden.float(), dim=-1).reshape(-1, sample, hidden.shape[1])
    first = sample // 4
    prefix, question = units[:, :first].sum(1), units[:, first:].sum(1)
    n = sample - first
    return question.square().sum(-1) / n**2, (question * prefix).sum(-1) / (n * first)


def pairwise(hidden: Tensor, sample: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """C_intra and C_inter by all cosines of a sample's tokens, as the definition says."""
    units = torch.nn.functional.normalize(hidden.float(), dim=-1).to(dtype)
    units = units.reshape(-1, sample, hidden.shape[1])
    cosines = units @ units.transpose(1, 2)
    first = sample // 4
    return cosines[:, first:, first:].float().mean((1, 2)), cosines[:, first:, :first].float().mean((1, 2))


def seconds(way: Callable[[Tensor], Any], buffers: Sequence[Tensor], device: str) -> float:
    """Median time of one call, over all buffers in turn."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.inference_mode():
            timed = _graph_seconds if torch.device(device).type == "cuda" else _wall_seconds
            return timed(way, buffers)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _wall_seconds(way: Callable[[Tensor], Any], buffers: Sequence[Tensor]) -> float:
    way(buffers[0])
    times = []
    for index in range(max(9, len(buffers))):
        begin = time.perf_counter()
        way(buffers[index % len(buffers)])
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _graph_seconds(way: Callable[[Tensor], Any], buffers: Sequence[Tensor], replays: int = 15) -> float:
    with torch.cuda.device(buffers[0].device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                way(buffers[0])
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for buffer in buffers:
                way(buffer)
        times: list[float] = []
        for index in range(replays + 3):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            if index >= 3:
                times.append(begin.elapsed_time(end) / 1e3 / len(buffers))
    return statistics.median(times)


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """One line each."""
    for row in rows:
        line = "  ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
        print(f"  {line}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    given = parser.parse_args()
    kind = torch.device(given.device).type
    print(", ".join(f"{key} {value}" for key, value in machine(given.device).items()), flush=True)
    copy = copy_bandwidth(given.device)
    print(f"copy bandwidth {copy:,.1f} GB/s, read and written", flush=True)
    for tokens, hidden in SHAPES[kind]:
        shape = Shape(tokens, hidden, 2048, getattr(torch, given.dtype))
        rows = measure(shape, given.device, copy, compiled=kind == "cuda", matrix=True)
        print_rows([asdict(row) for row in rows])


if __name__ == "__main__":
    main()

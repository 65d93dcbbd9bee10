"""Checks the angle code on this machine, then times it; prints no speed for a wrong result.

Usage: PYTHONPATH=kernels python3 kernels/bench/kernel_speed.py [--device D] [--dtype D] [--sweep]. Prints
CSV: our code beside PyTorch, torch.compile and the matrix of all pairs; on a GPU also the kernel by hidden
size, with --sweep at other block sizes too, which are not checked.

On a GPU, calls are captured as a graph after their chunks are planned, so that launches cost nothing. Large
shapes read several buffers in turn, so that no cache holds them. Figures are medians.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from gaincurate_kernels import RMSNorm, angle_concentration, segment_unit_sums, selftest, triton_version

SHAPES = {"cuda": [(65536, 3584), (262144, 896)], "cpu": [(8192, 896)]}  # tokens and hidden size
SAMPLE = 2048  # tokens of a prompt
WIDTHS = [576, 896, 1536, 2048, 3072, 3584, 4096, 5120, 8192, 16384]
SWEPT = {
    896: [(2, 4), (4, 4), (8, 4), (8, 8)],
    2048: [(1, 4), (2, 4), (4, 4), (4, 8)],
    3584: [(1, 4), (2, 4), (1, 8), (2, 8)],
    8192: [(1, 4), (1, 8), (1, 16)],
}
"""By hidden size, the rows of a tile and the warps of a program to try, each with 1 to 4 stages."""
_READ = {"cuda": 2**29, "cpu": 2**27}  # bytes: several times any cache
Call = Callable[[Tensor], Any]


def sample_bounds(tokens: int, sample: int) -> Tensor:
    """Questions, then prefixes, `[2 * samples, 2]`; the first quarter of a sample is its prefix."""
    starts = torch.arange(0, tokens, sample)
    middles, ends = starts + sample // 4, starts + sample
    return torch.cat([torch.stack([middles, ends], 1), torch.stack([starts, middles], 1)])


def machine(device: str) -> str:
    """The date, the device and the versions of libraries."""
    on_gpu = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else selftest.devices()[0]["name"]
    versions = f"torch {torch.__version__}, triton {triton_version() or 'none'}"
    return f"{time.strftime('%Y-%m-%d')}, {name}, {versions}"


def print_rows(rows: Iterable[dict[str, Any]]) -> None:
    """A CSV table, each line as soon as it is measured."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, row in enumerate(rows):
        if not number:
            writer.writerow(row)
        writer.writerow(f"{value:.4g}" if isinstance(value, float) else value for value in row.values())
        sys.stdout.flush()


def methods(buffers: Sequence[Tensor], copy: float) -> Iterator[dict[str, Any]]:
    """Our code, the same in plain PyTorch (on a GPU also compiled), and the matrix of all pairs."""
    tokens, on_gpu = len(buffers[0]), buffers[0].is_cuda
    bounds, samples = sample_bounds(tokens, SAMPLE), tokens // SAMPLE
    if on_gpu:  # chunks are planned before, so that a graph can capture the launches
        from gaincurate_kernels.launch import plan_chunks, planned_unit_sums

        sums_of: Call = partial(planned_unit_sums, plan=plan_chunks(bounds, buffers[0].device))
    else:
        sums_of = partial(segment_unit_sums, bounds=bounds)

    def ours(hidden: Tensor) -> Any:
        sums = sums_of(hidden)
        return angle_concentration(sums.rows(0, samples), sums.rows(samples, 2 * samples))

    calls: dict[str, Call] = {"gaincurate": ours, "torch": linear}
    if on_gpu:
        calls["torch.compile"] = torch.compile(linear, dynamic=False)
    for name in ("float32", "bfloat16"):
        calls[f"T x T matrix, {name}"] = partial(pairwise, dtype=getattr(torch, name))
    for name, call in calls.items():
        yield timed({"method": name}, call, buffers, copy)


def by_width(device: str, copy: float, *, sweep: bool) -> Iterator[dict[str, Any]]:
    """The kernel with and without a norm at many hidden sizes, prompts of 256 tokens, without planning.

    With `sweep` also in other block sizes at a few hidden sizes, as in scoring: bfloat16 and a fused norm.
    """
    from gaincurate_kernels import launch

    for hidden, dtype in itertools.product(WIDTHS, (torch.bfloat16, torch.float32)):
        tokens = _READ["cuda"] // (hidden * dtype.itemsize) // 256 * 256
        plan = launch.plan_chunks(sample_bounds(tokens, 256), torch.device(device))
        buffers, (padded, chosen) = made_states(tokens, hidden, dtype, device), launch.blocks_for(hidden)
        for norm in (None, RMSNorm(torch.rand(hidden, device=device).to(dtype))):
            others = SWEPT.get(hidden, []) if sweep and norm and dtype == torch.bfloat16 else []
            tried = [launch.Blocks(*pair, stages) for pair in others for stages in (1, 2, 3, 4)]
            for blocks in [chosen, *tried]:
                launch.BLOCKS[padded] = blocks
                call = partial(launch.planned_unit_sums, plan=plan, norm=norm)
                yield timed({"fused norm": norm is not None, **blocks._asdict()}, call, buffers, copy)
            launch.BLOCKS[padded] = chosen


def made_states(tokens: int, hidden: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Random states, in enough buffers that no cache holds them all."""
    generator = torch.Generator(device).manual_seed(0)
    count = -(-_READ[torch.device(device).type] // (tokens * hidden * dtype.itemsize))
    made = (
        torch.randn(tokens, hidden, generator=generator, device=device) + 0.3 for _ in range(max(2, count))
    )
    return [states.to(dtype) for states in made]


def timed(facts: dict[str, Any], call: Call, buffers: Sequence[Tensor], copy: float) -> dict[str, Any]:
    """A row of a table: GB/s of states read, and the share of a copy's bandwidth in per cent."""
    states, taken = buffers[0], seconds(call, buffers)
    rate, (tokens, hidden) = states.nbytes / taken / 1e9, states.shape
    facts |= {"dtype": str(states.dtype).removeprefix("torch."), "tokens": tokens, "hidden": hidden}
    return facts | {"milliseconds": taken * 1e3, "GB/s": rate, "% of copy": 100 * rate / copy}


def linear(hidden: Tensor, sample: int = SAMPLE) -> tuple[Tensor, Tensor]:
    """C_intra and C_inter by sums of unit vectors of a tensor reshaped to samples of equal length."""
    units = torch.nn.functional.normalize(hidden.float(), dim=-1).reshape(-1, sample, hidden.shape[1])
    first = sample // 4
    prefix, question = units[:, :first].sum(1), units[:, first:].sum(1)
    n = sample - first
    return question.square().sum(-1) / n**2, (question * prefix).sum(-1) / (n * first)


def pairwise(hidden: Tensor, dtype: torch.dtype, sample: int = SAMPLE) -> tuple[Tensor, Tensor]:
    """C_intra and C_inter by all cosines of a sample's tokens, as the definition says."""
    units = torch.nn.functional.normalize(hidden.float(), dim=-1).to(dtype)
    units = units.reshape(-1, sample, hidden.shape[1])
    cosines = units @ units.transpose(1, 2)
    first = sample // 4
    return cosines[:, first:, first:].float().mean((1, 2)), cosines[:, first:, :first].float().mean((1, 2))


@torch.inference_mode()
def seconds(call: Call, buffers: Sequence[Tensor], least: float = 0.5) -> float:
    """Median time of one call, over all buffers in turn; on a CPU measured for `least` seconds."""

    def each() -> None:
        for buffer in buffers:
            call(buffer)

    if not buffers[0].is_cuda:
        timer = Timer("each()", globals={"each": each}, num_threads=torch.get_num_threads())
        return timer.blocked_autorange(min_run_time=least).median / len(buffers)
    from triton.testing import do_bench_cudagraph

    with torch.cuda.device(buffers[0].device):
        taken: float = do_bench_cudagraph(each, return_mode="median") / 1e3
    return taken / len(buffers)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--sweep", action="store_true")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    device, size = given.device, torch.device(given.device).type
    triton = size == "cuda"
    print(machine(device), flush=True)
    checks = selftest.run(device, "triton" if triton else "torch")
    for line in checks:
        print(f"{'ok  ' if line.ok else 'FAIL'} {line.check}: {line.detail}", flush=True)
    if not all(line.ok for line in checks):
        sys.exit("a check failed: nothing is timed")
    copied, target = (torch.rand(_READ[size] // 2, device=device) for _ in range(2))
    copy = 2 * copied.nbytes / seconds(target.copy_, [copied]) / 1e9
    print(f"copy bandwidth {copy:,.1f} GB/s, read and written", flush=True)
    del copied, target
    for tokens, hidden in SHAPES[size]:
        print_rows(methods(made_states(tokens, hidden, getattr(torch, given.dtype), device), copy))
    if triton:
        print_rows(by_width(device, copy, sweep=given.sweep))


if __name__ == "__main__":
    main()

"""Checks and times the angle kernel, then scoring, on a GPU in one call; needs torch, triton, transformers.

Usage: make bench-gpu, or PYTHONPATH=.:kernels python3 kernels/bench/gpu.py [--out FOLDER] [--sweep]. No speed
is printed unless the checks passed; the block sizes that --sweep tries are not checked. Writes kernel.csv,
widths.csv, scoring.csv and sweep.csv. `--rehearse` walks the same path on a CPU in Triton's interpreter at
toy sizes; its times mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import kernel_speed as bench
from bench.kernel_speed import print_rows
from gaincurate_kernels import RMSNorm, selftest

ROOT = Path(__file__).parents[2]
TOY = ("toy", (8, 64, 96, 2, 4, 2))
WIDTHS = [576, 896, 1536, 2048, 3072, 3584, 4096, 5120, 8192, 16384]
# Prompts, hidden size, intermediate size, layers, heads, key heads: random weights at the shapes of Qwen2.5,
# and fewer prompts for the larger ones, so that all of it ends in eight minutes.
MODELS = {
    "0.5B": (10000, 896, 4864, 24, 14, 2),
    "1.5B": (5000, 1536, 8960, 28, 12, 2),
    "7B": (2000, 3584, 18944, 28, 28, 4),
}
READ = 2**29  # bytes of states in one call of the table by width
SWEPT = {
    896: [(2, 4), (4, 4), (8, 4), (8, 8)],
    2048: [(1, 4), (2, 4), (4, 4), (4, 8)],
    3584: [(1, 4), (2, 4), (1, 8), (2, 8)],
    8192: [(1, 4), (1, 8), (1, 16)],
}


def main() -> int:
    """Run every part; returns 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench-gpu"))
    parser.add_argument("--no-tests", action="store_true", help="the self-test alone, without pytest")
    parser.add_argument("--sweep", action="store_true", help="also time other block sizes than the table's")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    if options.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        print("no CUDA device here; --rehearse walks through on a CPU", file=sys.stderr)
        return 1
    device = "cpu" if options.rehearse else "cuda:0"
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {"date": time.strftime("%Y-%m-%d"), **bench.machine(device)}
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    if not checked(device, tests=not options.no_tests):
        print("a check failed: nothing is timed", file=sys.stderr)
        return 1
    copy = bench.copy_bandwidth(device)
    print(f"copy bandwidth {copy:,.0f} GB/s, read and written", flush=True)
    write(options.out / "kernel.csv", against_others(device, copy, options.rehearse), facts)
    write(options.out / "widths.csv", by_width(device, copy, options.rehearse), facts)
    write(options.out / "scoring.csv", scoring(device, options.rehearse), facts)
    if options.sweep:
        write(options.out / "sweep.csv", sweep(device, copy, options.rehearse), facts)
    return 0


def checked(device: str, *, tests: bool) -> bool:
    """The self-test, then the kernels' tests on this device."""
    checks = selftest.run(device, "triton")
    for check in checks:
        print(f"  {'ok  ' if check.ok else 'FAIL'} {check.check}: {check.detail}", flush=True)
    if not all(check.ok for check in checks):
        return False
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing or not tests:
        print(f"  the self-test alone{': no ' + ' and no '.join(missing) if missing else ''}", flush=True)
        return True
    # Without the project's own settings, which name plugins that a bare machine lacks.
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={ROOT}"]
    command += ["--import-mode=importlib", "-p", "no:cacheprovider"]
    command += [str(test) for test in sorted((ROOT / "tests/kernels").glob("test_angle_kernels*.py"))]
    paths = os.pathsep.join(str(ROOT / folder) for folder in (".", "kernels", "tests"))
    begin = time.perf_counter()
    passed = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}).returncode == 0
    print(f"the kernels' tests took {time.perf_counter() - begin:.0f} s", flush=True)
    return passed


def against_others(device: str, copy: float, rehearse: bool) -> list[dict[str, Any]]:
    """The shapes that the kernel has a target for, beside PyTorch, torch.compile and the pairwise matrix."""
    rows = []
    for tokens, hidden in bench.SHAPES["cuda"] if not rehearse else [(256, 96)]:
        sample = 2048 if not rehearse else 64
        shape = bench.Shape(tokens, hidden, sample, torch.bfloat16)
        rows += [
            asdict(row) for row in bench.measure(shape, device, copy, compiled=not rehearse, matrix=True)
        ]
        print_rows(rows[-5:])
    return rows


def by_width(device: str, copy: float, rehearse: bool) -> list[dict[str, Any]]:
    """Every way to call the kernel at many hidden sizes, prompts of 256 tokens."""
    rows = []
    for hidden in WIDTHS if not rehearse else [96, 130]:
        for dtype in (torch.bfloat16, torch.float32):
            tokens = READ // (hidden * dtype.itemsize) // 256 * 256 if not rehearse else 512
            shape = bench.Shape(tokens, hidden, 256, dtype)
            norm = RMSNorm(torch.rand(hidden, device=device).to(dtype))
            calls: dict[str, dict[str, Any]] = {
                "plain": {},
                "fused norm": {"norm": norm},
                "means": {"means": True},
                "fused norm, means": {"norm": norm, "means": True},
            }
            for name, options in calls.items():
                rows.append({"call": name, **timed(shape, device, copy, options)})
        print_rows(rows[-8:])
    return rows


def scoring(device: str, rehearse: bool) -> list[dict[str, Any]]:
    """Rates of scoring with random weights on prompts of real lengths."""
    import transformers

    from bench import score_speed

    rows = []
    for name, (count, hidden, inner, layers, heads, key_heads) in MODELS.items() if not rehearse else [TOY]:
        config = transformers.Qwen2Config(
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            vocab_size=151936 if not rehearse else 512,
        )
        with torch.device(device):
            model = transformers.AutoModel.from_config(config, dtype=torch.bfloat16).eval()
        budget = 65536 if not rehearse else 256
        prompts = score_speed.made_up_prompts(count, prefix=115, vocab_size=config.vocab_size)
        found = score_speed.measure(model, prompts, budget=budget, passes=1, one_by_one=50)
        rows += [{"model": name, **asdict(rate)} for rate in found]
        print_rows(rows[-len(found) :])
        del model
    return rows


def sweep(device: str, copy: float, rehearse: bool) -> list[dict[str, Any]]:
    """Other block sizes at a few hidden sizes, with a fused norm as in scoring; the table's own first."""
    from gaincurate_kernels import launch

    rows = []
    for hidden, candidates in SWEPT.items() if not rehearse else [(96, [(4, 4)])]:
        padded, chosen = launch.blocks_for(hidden)
        dtype = torch.bfloat16
        tokens = READ // (hidden * dtype.itemsize) // 256 * 256 if not rehearse else 512
        norm = RMSNorm(torch.rand(hidden, device=device).to(dtype))
        tried = [chosen] + [
            launch.Blocks(rows=count, warps=warps, stages=stages)
            for count, warps in candidates
            for stages in (1, 2, 3, 4)
        ]
        try:
            for blocks in tried:
                launch.BLOCKS[padded] = blocks
                shape = bench.Shape(tokens, hidden, 256, dtype)
                rows.append({**asdict(blocks), **timed(shape, device, copy, {"norm": norm})})
        finally:
            launch.BLOCKS[padded] = chosen
        best = sorted(rows[-len(tried) + 1 :], key=lambda row: -row["gigabytes_per_second"])[:4]
        print_rows([rows[-len(tried)], *best])
    return rows


def timed(shape: bench.Shape, device: str, copy: float, options: dict[str, Any]) -> dict[str, Any]:
    """One variant of the kernel's sums, planning left out."""
    from gaincurate_kernels.launch import make_plan, planned_unit_sums

    plan = make_plan(bench.bounds_of(shape), torch.device(device))
    size = (shape.tokens, shape.hidden)
    buffers = [(torch.randn(size, device=device) + 0.3).to(shape.dtype) for _ in range(2)]
    taken = bench.seconds(lambda hidden: planned_unit_sums(hidden, plan, **options), buffers, device)
    rate = shape.bytes / taken / 1e9
    return {
        "dtype": str(shape.dtype).removeprefix("torch."),
        "tokens": shape.tokens,
        "hidden": shape.hidden,
        "milliseconds": round(taken * 1e3, 4),
        "gigabytes_per_second": round(rate, 1),
        "percent_of_copy": round(100 * rate / copy, 1),
    }


def write(path: Path, rows: list[dict[str, Any]], facts: dict[str, str]) -> None:
    """As CSV, each line with the device and the versions."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*facts, *rows[0]])
        writer.writeheader()
        writer.writerows([{**facts, **row} for row in rows])


if __name__ == "__main__":
    sys.exit(main())

"""Times the linear form of the angle score against the pairwise matrix of the definition, on this machine.

Usage: python kernels/bench/angle.py [--hidden 576] [--tokens 64 256 1024]. Checks first that the two agree
and prints nothing but the disagreement if they do not. Figures are medians; compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch

from gaincurate_kernels import angle_concentration, segment_unit_sums
from gaincurate_kernels.reference import unit_vectors

TOLERANCE = 2e-6


def linear(hidden: torch.Tensor, prefix: int) -> tuple[float, float]:
    """C_intra and C_inter of one prompt through sums of unit vectors."""
    question = segment_unit_sums(hidden, torch.tensor([[prefix, len(hidden)]]))
    found = angle_concentration(question, segment_unit_sums(hidden, torch.tensor([[0, prefix]])))
    return float(found.intra), float(found.inter)


def matrix(hidden: torch.Tensor, prefix: int) -> tuple[float, float]:
    """The same through all pairwise cosines, in the same dtype."""
    units = unit_vectors(hidden)
    cosines = units @ units.T
    return float(cosines[prefix:, prefix:].mean()), float(cosines[prefix:, :prefix].mean())


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int = 15) -> float:
    """Median wall time of a call after two warm-ups."""
    times = []
    for index in range(repeats + 2):
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 2:
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> int:
    """Print a table, or say what is wrong and return 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    lines = []
    for tokens in options.tokens:
        hidden = torch.randn(tokens, options.hidden, device=device) + 0.3
        prefix = tokens // 3
        fast, slow = linear(hidden, prefix), matrix(hidden, prefix)
        error = max(abs(a - b) for a, b in zip(fast, slow, strict=True))
        if error > TOLERANCE:
            print(f"linear and matrix disagree by {error:.1e} at {tokens} tokens", file=sys.stderr)
            return 1
        a = median_seconds(lambda h=hidden, p=prefix: linear(h, p), device)  # type: ignore[misc]
        b = median_seconds(lambda h=hidden, p=prefix: matrix(h, p), device)  # type: ignore[misc]
        read = hidden.numel() * hidden.element_size()
        lines.append(
            f"{tokens:>8}  {a * 1e3:>10.3f}  {b * 1e3:>10.3f}  {b / a:>7.2f}  {read / a / 1e9:>8.2f}"
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    print(f"device {name}, torch {torch.__version__}, hidden {options.hidden}, float32, one prompt per call")
    print(f"{'tokens':>8}  {'linear ms':>10}  {'matrix ms':>10}  {'ratio':>7}  {'GB/s':>8}")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())

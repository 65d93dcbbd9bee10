"""Compiles the kernels ahead of time, with no GPU, and says what the compiler made of them.

Usage: python kernels/bench/compiled.py [--target sm_90 ...] [--hidden 896 ...] [--json]. For each case:
registers and spills of a thread, shared memory, programs that fit on one multiprocessor, and how wide the
states are read. Must run without TRITON_INTERPRET. What it cannot say is how fast the code is.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gaincurate_kernels import angle_kernels, launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {
    "float32": ("fp32", torch.float32),
    "bfloat16": ("bf16", torch.bfloat16),
    "float16": ("fp16", torch.float16),
}
_SHARED_KB = {"sm_80": 164, "sm_90": 228, "sm_100": 228}
_TYPES = {
    "sums": "*fp32", "means": "*fp32", "zeros": "*i32", "chunks": "*i64", "stride": "i32", "eps": "fp32",
    "w_step": "i32",
    "splits": "*i64", "question": "*fp32", "prefix": "*fp32", "prefix_of": "*i64", "tokens": "*i64",
    "prefix_tokens": "*i64", "out": "*fp64",
}  # fmt: skip
_OURS = ("sums", "means", "zeros", "chunks", "splits", "out")  # allocated by us, so 16-byte aligned


@dataclass(frozen=True, slots=True)
class Facts:
    """What was made of one kernel; `resident` and `spilled` are None where the target does not say.

    `registers` of one thread; `spilled` bytes of a thread's stack; `shared` bytes of a program; `resident`
    programs on a multiprocessor; `wide` and `narrow` reads of global memory, of 16 bytes and of fewer,
    the few numbers of a program's plan left out; `row_warps` that one row of states is spread over.
    """

    target: str
    kernel: str
    hidden: int
    dtype: str
    fused: bool
    means: bool
    registers: int
    spilled: int | None
    shared: int
    resident: int | None
    wide: int
    narrow: int
    row_warps: int | None


def unit_sums(target: str, hidden: int, dtype: str, *, fused: bool, means: bool) -> Facts:
    """Compile `unit_sums_kernel` as `launch` would for this hidden size and these dtypes."""
    name, kind = DTYPES[dtype]
    size = kind.itemsize
    constants, options = launch.compilation(
        hidden, size, norm_itemsize=size if fused else 0, means=means, hip=target.startswith("gfx")
    )
    types = {**_TYPES, "x": f"*{name}", "w": f"*{name}"}
    made = _compile(angle_kernels.unit_sums_kernel, target, types, constants, options)
    return _facts(made, target, "unit_sums", hidden, dtype, fused, means, options["num_warps"])


def others(target: str, hidden: int) -> Iterator[Facts]:
    """Compile the two small kernels."""
    join = launch.join_constants(hidden, means=True)
    made = _compile(angle_kernels.join_chunks_kernel, target, _TYPES, join, launch.SMALL)
    yield _facts(made, target, "join_chunks", hidden, "float32", False, True, 4)
    dots = launch.dot_constants(hidden, shared=True)
    made = _compile(angle_kernels.concentration_kernel, target, _TYPES, dots, launch.SMALL)
    yield _facts(made, target, "concentration", hidden, "float32", False, False, 4)


def _compile(
    kernel: Any, target: str, types: dict[str, str], constants: dict[str, Any], options: dict[str, Any]
) -> Any:
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in _OURS if n in names}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=TARGETS[target], options=options)


def _facts(
    made: Any, target: str, kernel: str, hidden: int, dtype: str, fused: bool, means: bool, warps: int
) -> Facts:
    shared = made.metadata.shared
    if target.startswith("gfx"):
        text = made.asm["amdgcn"]
        registers = int(_found(r"\.vgpr_count:\s+(\d+)", text))
        spilled: int | None = int(_found(r"\.vgpr_spill_count:\s+(\d+)", text)) * 4
        resident = None
        wide = len(re.findall(r"(?:global|buffer)_load_dwordx4", text))
        narrow = len(re.findall(r"(?:global|buffer)_load_(?:dword|ushort|short_d16\S*)\s", text))
    else:
        usage, code = _dump(made.asm["cubin"], "-res-usage"), _dump(made.asm["cubin"], "-sass")
        registers = int(_found(r"REG:(\d+)", usage))
        spilled = int(_found(r"STACK:(\d+)", usage)) + int(_found(r"LOCAL:(\d+)", usage))
        resident = _resident(target, registers, shared, warps)
        reads = re.findall(r"\b(LDG\.E\S*|LDGSTS\.E\S*)", code)
        wide = sum(".128" in read for read in reads)
        narrow = sum(not re.search(r"\.(128|64)", read) for read in reads)
    return Facts(
        target, kernel, hidden, dtype, fused, means, registers, spilled, shared, resident, wide, narrow,
        _row_warps(made.asm["ttgir"]),
    )  # fmt: skip


def _row_warps(code: str) -> int | None:
    """Warps along the columns of the tile that is read from shared memory in the loop over tokens."""
    read = re.search(r"local_load.*?-> tensor<[^>]*(#blocked\d*)>", code)
    if read is None:
        return None
    layout = _found(rf"{read[1]} = .*?warpsPerCTA = \[([\d, ]+)\]", code)
    warps = [int(count) for count in layout.split(",")]
    del warps[launch.ROWS_AXIS]
    return math.prod(warps)


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"the compiler's report has no {pattern}")
    return found[1]


def _dump(cubin: bytes, what: str) -> str:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, what, file.name], capture_output=True, text=True, check=True)
    return done.stdout


def _resident(target: str, registers: int, shared: int, warps: int) -> int:
    """Programs that fit on one multiprocessor: 65,536 registers given out by 8, 64 warps, 32 programs."""
    by_registers = 65536 // (-(-registers // 8) * 8 * 32 * warps)
    by_shared = (_SHARED_KB[target] - 1) * 1024 // (shared + 1024)  # 1 KB of each program is the system's
    return min(by_registers, by_shared, 64 // warps, 32)


def main() -> int:
    """Print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", nargs="+", default=["sm_90"], choices=TARGETS)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 576, 896, 2048, 3584, 8192, 16384])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"], choices=DTYPES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        unit_sums(target, hidden, dtype, fused=fused, means=means)
        for target in options.target
        for hidden in options.hidden
        for dtype in options.dtype
        for fused in (False, True)
        for means in (False, True)
    ]
    rows += [row for target in options.target for row in others(target, max(options.hidden))]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return 0
    names = list(asdict(rows[0]))
    print("  ".join(names))
    for row in rows:
        print("  ".join(str(getattr(row, name)).rjust(len(name)) for name in names))
    return 0


if __name__ == "__main__":
    sys.exit(main())

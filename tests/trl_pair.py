"""Two processes of a TRL trainer under gloo, started and waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("trl_run.py")
ROOT = PROGRAM.parent.parent


def launch(
    model: Path, run: Path, output: Path, *options: str, processes: int = 2, program: Path = PROGRAM
) -> int:
    """Run it to its end, or to its kill; the first exit code that is not 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output.mkdir(exist_ok=True)
    started = []
    for rank in range(processes):
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        paths = [ROOT, ROOT / "kernels", PROGRAM.parent]  # the last for verifiers in processes of their own
        environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        if processes > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
            environment |= {"WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank)}
        with (output / f"log-{rank}.txt").open("ab") as log:
            command = [sys.executable, str(program), str(model), str(run), str(output), *options]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    codes = [process.wait(timeout=300) for process in started]
    return next((code for code in codes if code), 0)

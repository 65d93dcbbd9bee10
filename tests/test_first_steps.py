"""Every command of README and quickstart, typed in a fresh folder with the wheel and a tiny `demo` model.

Only `pip install` is left out, and the doctor of a base install, which has its own tests. `cat FILE` in a page shows what the user has
in that file, so the test writes it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_gguf

ROOT = Path(__file__).parent.parent


def blocks(page: str) -> list[tuple[str, str]]:
    """The kind and the text of each block of a page."""
    return re.findall(r"```(console|python)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a console block and what stands below it."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(line, rest) for line, _, rest in (part.partition("\n") for part in parts)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell in which the wheel is installed before everything else."""
    wheels, place = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(wheels.glob("*.whl"))
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(place), str(wheel)],
        check=True,
        capture_output=True,
    )
    tiny_gguf.write(place)
    path = os.pathsep.join([str(place / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **quiet, "PYTHONPATH": str(place), "PATH": path}


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_commands_of_the_page_run_as_typed(page: str, installed: dict[str, str], tmp_path: Path) -> None:
    typed = 0
    for kind, block in blocks(page):
        if kind == "python" and "trainer = " not in block:  # the README's is a part of a script
            done = subprocess.run(
                [sys.executable, "-c", block], cwd=tmp_path, env=installed, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        for line, below in commands(block) if kind == "console" else []:
            if line.startswith("pip install"):
                continue
            if line.startswith("cat "):
                (tmp_path / line.removeprefix("cat ")).write_text(below)
                continue
            done = subprocess.run(
                ["sh", "-c", line], cwd=tmp_path, env=installed, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            typed += 1
    assert typed >= 6

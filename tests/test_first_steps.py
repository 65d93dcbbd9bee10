"""The commands of README, quickstart and report, typed in a fresh folder with the wheel and a tiny `demo` model.

The commands that `gaincurate example` prints are the README's (`tests/cli/test_example.py`). `cat FILE` in a
page shows what the user has in that file, so the test writes it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny_gguf

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": [],
    "docs/quickstart.md": [],
    "docs/report.md": [
        "gaincurate example",
        "gaincurate score prompts.jsonl --model demo --out scored --signals angle,embedding",
        "gaincurate score prompts.jsonl --model demo --out scored-bf16 --dtype bfloat16",
        "gaincurate schedule start scored --run run --strategy uniform --budget 8 --rounds 2",
    ],
}
"""The pages, and the commands that make what each of them begins with."""
SKIPPED = {
    "pip install": "the fixture has installed the wheel",
    "gaincurate difficulty forecast": "all answers of the tiny model are wrong, which it refuses",
}


def commands(page: str) -> list[tuple[str, str, str]]:
    """The kind of each block of a page, and its commands with the text below each; or its Python."""
    steps = list[tuple[str, str, str]]()
    for kind, block in re.findall(r"```(console|python)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        parts = re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]
        pairs = [(line, rest) for line, _, rest in (part.partition("\n") for part in parts)]
        steps += [(kind, *pair) for pair in pairs] if kind == "console" else [(kind, block, "")]
    return steps


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell in which the wheel is installed before everything else."""
    place = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(place), str(wheel)], check=True, capture_output=True)
    tiny_gguf.write(place)
    path = os.pathsep.join([str(place / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **quiet, "PYTHONPATH": str(place), "PATH": path}


def done(words: list[str], folder: Path, installed: dict[str, str]) -> str:
    """The output of a command, which has to succeed."""
    ended = subprocess.run(words, cwd=folder, env=installed, capture_output=True, text=True)
    assert ended.returncode == 0, f"{words}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_the_page_run_as_typed(page: str, installed: dict[str, str], tmp_path: Path) -> None:
    typed = 0
    if page == "docs/report.md":
        questions = pa.table({"question": [f"What is {n} + {n}?" for n in range(20)]})
        pq.write_table(questions, tmp_path / "gsm8k_test.parquet")
    for line in PAGES[page]:
        done(["sh", "-c", line], tmp_path, installed)
    for line in _advised(tmp_path, installed) if PAGES[page] else []:
        done(["sh", "-c", line], tmp_path, installed)
    for kind, line, below in commands(page):
        if kind == "python":
            if "trainer = " not in line:  # the README's is a part of a script
                done([sys.executable, "-c", line], tmp_path, installed)
        elif line.startswith("cat "):
            (tmp_path / line.removeprefix("cat ")).write_text(below)
        elif not line.startswith(tuple(SKIPPED)):
            done(["sh", "-c", line], tmp_path, installed)
            typed += 1
    assert typed >= 6


def _advised(folder: Path, installed: dict[str, str]) -> list[str]:
    """The commands in the advice of a report without pass rates, with shorter rollouts."""
    shown = " ".join(done(["gaincurate", "report", "scored"], folder, installed).split())
    rollout, report = re.findall(r"`(gaincurate (?:difficulty|report) [^`]*)`", shown)
    return [f"{rollout} --samples 2 --max-tokens 4", report]

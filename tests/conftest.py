"""Shared fixtures; heavy ones are made once per session."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

# Before anything imports Hugging Face's libraries: tests must not reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from hypothesis import HealthCheck, settings

import tiny
from chromium import Chromium, found

# Triton's kernels run on a GPU where there is one, else in Triton's interpreter; the variable counts when a
# kernel is first imported.
os.environ["TRITON_INTERPRET"] = "0" if torch.cuda.is_available() else "1"

# Where this was begun with Ctrl-C ignored (`pytest &` in a script) or a closed terminal (`nohup pytest`), both
# must count again: tests press one and close the other.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes depends on the machine, and one folder may serve many examples. In CI the examples
# are the same each time, so that whatever fails there fails again. Elsewhere they are new. `fast` is what
# `make test` runs; `make test-all` asks for `ci`.
for _profile, _examples in {"fast": 25, "ci": 200}.items():
    settings.register_profile(
        _profile,
        deadline=None,
        max_examples=_examples,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        derandomize="CI" in os.environ,
    )
settings.load_profile("fast")

_THREADS = torch.get_num_threads()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and its tokenizer; do not write into it."""
    return tiny.save_model(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is installed."""
    out, root = tmp_path_factory.mktemp("wheel"), str(Path(__file__).parent.parent)
    build = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(out), root], check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(autouse=True, scope="module")
def _threads_as_they_were() -> Iterator[None]:
    """A number of threads is a part of what a set is; what one file's tests set must not reach the next."""
    torch.set_num_threads(_THREADS)
    yield
    torch.set_num_threads(_THREADS)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes on one thread: the same bits on any machine, and no waiting for other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Forty rows as .jsonl."""
    return tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(40))


@pytest.fixture(autouse=True, scope="module")
def what_ray_leaves() -> Iterator[None]:
    """Collects Ray's processes and sockets with the module that had them, or a later test would be blamed."""
    yield
    if "ray" in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = found()
    if program is None:
        pytest.skip("no Chromium in PATH: `apt-get install chromium`, as .ci/run does")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium

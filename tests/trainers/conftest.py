"""What the tests of trainers share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters import forget

collect_ignore_glob = [] if importlib.util.find_spec("trl") else ["test_trl*.py"]


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> Path:
    return tiny_model


@pytest.fixture(autouse=True)
def _no_run_stays_open() -> Iterator[None]:
    yield
    forget()

"""The set of prompts that the tests of the page of every prompt share."""

from __future__ import annotations

from pathlib import Path

import pytest

import prompt_pages


@pytest.fixture(scope="module")
def prompt_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prompt_pages.make(tmp_path_factory.mktemp("set") / "scored")


@pytest.fixture(scope="module")
def pass_rates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prompt_pages.rates(tmp_path_factory.mktemp("rates") / "it's rates.jsonl")

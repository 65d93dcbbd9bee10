"""Scored sets of given questions, and what is left of one when rows are dropped; without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import exports
from gaincurate.core.scored_set import ScoredSet
from gaincurate.hygiene.checks import leave_out
from gaincurate.hygiene.options import HygieneOptions

Prompt = str | list[dict[str, str]]


def asking(folder: Path, prompts: Sequence[Any], answers: Sequence[str] | None = None) -> ScoredSet:
    """A set of these prompts (texts or messages), with ids `id0000`, ... in their order."""
    answers = answers or ["1"] * len(prompts)
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]
    return ScoredSet(exports.make_set(folder, rows, prompt="prompt"))


def left(folder: Path, scored: ScoredSet, options: HygieneOptions) -> ScoredSet:
    """The set without the rows that these options drop."""
    kept = leave_out(scored, options).kept
    table = [row for row, stays in zip(_rows(scored), kept.tolist(), strict=True) if stays]
    return ScoredSet(exports.make_set(folder, table, prompt="prompt"))


def _rows(scored: ScoredSet) -> list[dict[str, Any]]:
    return [row for table in scored.tables(["prompt", "answer"]) for row in table.to_pylist()]

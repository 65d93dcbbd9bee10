"""Scored sets of given questions, and what is left of one when rows are dropped; without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import exports
import sets
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.config import VerifierConfig
from gaincurate.hygiene.checks import leave_out
from gaincurate.hygiene.options import HygieneOptions

LONG = "a farmer has seventeen sheep and all but nine of them run away how many are left to him now"
EXACT = VerifierConfig(verifier="exact")


def one_of_each(folder: Path) -> tuple[ScoredSet, HygieneOptions]:
    """A set with a row for each check, and options for all of them."""
    texts = {
        "fine": LONG, "again": LONG.upper(), "near": LONG + " please", "long": "so many tokens",
        "leaked": "What is 2+2?", "sentinel": "no answer", "word": "in words",
        "broken": r"which \boxed{} one?", "one": "how tall?", "two": "How tall?",
    }  # fmt: skip
    answers = dict.fromkeys(texts, "4") | {"sentinel": "n/a", "word": "some number", "two": "5"}
    rows = [
        sets.scored_row(gc_id, text, tokens=50 if gc_id == "long" else 3) | {"answer": answers[gc_id]}
        for gc_id, text in texts.items()
    ]
    (folder / "eval.jsonl").write_text(json.dumps({"question": "what is 2 + 2"}) + "\n")
    scored = ScoredSet(sets.make_set(folder / "set", [rows[:4], rows[4:]], answer="answer"))
    options = HygieneOptions(max_prompt_tokens=40, verifier=EXACT, evals=(str(folder / "eval.jsonl"),))
    return scored, options


def asking(folder: Path, prompts: Sequence[Any], answers: Sequence[str | None] | None = None) -> ScoredSet:
    """A set of these prompts (texts or messages), with ids `id0000`, ... in their order."""
    answers = answers or ["1"] * len(prompts)
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]
    return ScoredSet(exports.make_set(folder, rows, prompt="prompt"))


def left(folder: Path, scored: ScoredSet, options: HygieneOptions) -> ScoredSet:
    """The set without the rows that these options drop."""
    kept = leave_out(scored, options).remaining
    rows = [row for table in scored.tables(["prompt", "answer"]) for row in table.to_pylist()]
    table = [row for row, stays in zip(rows, kept.tolist(), strict=True) if stays]
    return ScoredSet(exports.make_set(folder, table, prompt="prompt"))

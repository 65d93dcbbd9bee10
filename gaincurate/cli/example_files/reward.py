"""Rewards of the example's prompts: 1 where the completion ends with the answer, 0 elsewhere.

`correct` judges one completion (`gaincurate difficulty rollout --verifier reward:correct`). `reward` is
the same as TRL calls it (`GRPOTrainer(reward_funcs=reward)`).
"""

from __future__ import annotations

import re
from typing import Any


def correct(completion: str, row: dict[str, Any]) -> float:
    """1.0 where the last number or word of the completion is the row's answer, in any case."""
    words = re.findall(r"-?\d+|[a-z]+", completion.replace(",", "").lower())
    return float(bool(words) and words[-1] == str(row["answer"]).lower())


def reward(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """One reward per completion: TRL gives the columns of the data set by name."""
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [correct(text, {"answer": gold}) for text, gold in zip(texts, answer, strict=True)]

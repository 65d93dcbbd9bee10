"""Makes the demo's prompt set: word problems and arithmetic of several difficulties, with answers.

Usage: python docs/examples/demo_prompts.py OUT.jsonl. Needs reasoning-gym (`pip install
'gaincurate[demo]'`), which generates the tasks, so no data set has to be downloaded. The same seed gives the
same file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import reasoning_gym

ROWS_PER_TASK = 20
# Task, difficulty (1 is easiest), reasoning-gym's settings for it.
TASKS: list[tuple[str, int, dict[str, object]]] = [
    ("gsm_symbolic", 1, {}),
    ("leg_counting", 1, {"min_animals": 2, "max_animals": 3}),
    ("leg_counting", 2, {"min_animals": 5, "max_animals": 7}),
    ("chain_sum", 1, {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    ("chain_sum", 2, {"min_terms": 4, "max_terms": 5, "min_digits": 2, "max_digits": 3}),
    ("chain_sum", 3, {"min_terms": 8, "max_terms": 10, "min_digits": 3, "max_digits": 4}),
    ("products", 1, {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    ("products", 2, {"min_terms": 3, "max_terms": 3, "min_digits": 2, "max_digits": 3}),
    ("simple_equations", 1, {"min_terms": 2, "max_terms": 2, "max_value": 20}),
    ("simple_equations", 2, {"min_terms": 4, "max_terms": 5, "max_value": 100}),
    ("time_intervals", 1, {"task_types": ["time"]}),
    ("calendar_arithmetic", 1, {}),
]


def main(out: Path) -> None:
    """Write the prompt set."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for seed, (task, difficulty, settings) in enumerate(TASKS):
            dataset = reasoning_gym.create_dataset(task, size=ROWS_PER_TASK, seed=seed, **settings)
            for item in dataset:
                row = {
                    "question": item["question"],
                    "answer": str(item["answer"]),
                    "source": task,
                    "difficulty": difficulty,
                    # What the check of some tasks needs; as text, because each has other keys.
                    "metadata": json.dumps(item["metadata"], default=str),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

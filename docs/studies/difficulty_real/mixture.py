"""Writes the prompts and the examples of the measurements in docs/difficulty.md.

Usage: python docs/studies/difficulty_real/mixture.py FOLDER [PROMPTS_PER_TASK [ten|seven]]. Needs
reasoning-gym (`pip install 'gaincurate[demo]'`). The same version of it gives the same files.

The ten tasks and their sizes were chosen before any predictor was looked at, so that SmolLM2-135M-Instruct's
pass rates spread. The seven have wide ranges inside each task and were chosen before any rollout. The
examples show the form of an answer; without them the model talks instead of answering.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import reasoning_gym

PROMPTS_PER_TASK = 46
Tasks = list[tuple[str, dict[str, object]]]
TEN: Tasks = [
    ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}),
    ("products", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}),
    ("count_bits", {"max_n": 60}),
    ("count_primes", {"max_n": 15}),
    ("coin_flip", {"min_trials": 1, "max_trials": 6}),
    ("letter_counting", {"min_words": 2, "max_words": 4}),
    ("syllogism", {}),
    ("calendar_arithmetic", {"tasks": ["is_leap_year"]}),
    ("isomorphic_strings", {"max_string_length": 4}),
    ("ransom_note", {"max_note_length": 3, "max_magazine_length": 6}),
]
SEVEN: Tasks = [
    ("chain_sum", {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2}),
    ("products", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    ("gcd", {"min_value": 1, "max_value": 30}),
    ("letter_counting", {"min_words": 2, "max_words": 10}),
    ("spell_backward", {"min_word_len": 2, "max_word_len": 5}),
    ("count_primes", {"max_n": 40}),
    ("syllogism", {}),
]
EXAMPLES = [
    ("State the final answer to the following arithmetic problem: 4 + 3 =", "7"),
    ("Solve the following multiplication: 2 * 5. Give only the result as your final answer.", "10"),
    ('How many times does the letter "o" appear in the text: "moon over"?', "3"),
    ("Does it logically follow that:\nSome dogs are cats?\n(Answer Yes or No)", "No"),
    ("Return True if 3 is smaller than 5, or False otherwise.", "True"),
]


def rows(per_task: int, tasks: Tasks) -> list[dict[str, str]]:
    """Prompts that all differ, task by task."""
    found: list[dict[str, str]] = []
    for seed, (task, settings) in enumerate(tasks):
        seen: set[str] = set()
        for item in reasoning_gym.create_dataset(task, size=20 * per_task, seed=seed, **settings):
            if len(seen) < per_task and item["question"] not in seen:
                seen.add(item["question"])
                # As text: Arrow would mix the keys of all tasks in a struct.
                metadata = json.dumps(item["metadata"], default=str)
                answer = str(item["answer"])
                found.append(
                    {"question": item["question"], "answer": answer, "source": task, "metadata": metadata}
                )
    return found


def main(folder: Path, per_task: int, tasks: Tasks = TEN) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    found = rows(per_task, tasks)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    shots = [
        {"role": role, "content": text}
        for question, answer in EXAMPLES
        for role, text in (("user", question), ("assistant", f"<answer>{answer}</answer>"))
    ]
    (folder / "shots.json").write_text(json.dumps(shots, indent=1), encoding="utf-8")
    print(f"{len(found)} prompts of {len(tasks)} tasks")


if __name__ == "__main__":
    per_task = int(sys.argv[2]) if len(sys.argv) > 2 else PROMPTS_PER_TASK
    main(Path(sys.argv[1]), per_task, SEVEN if sys.argv[3:] == ["seven"] else TEN)

"""Makes the world of SmolLM2-135M-Instruct: tasks with short answers that it half knows, or does not know.

Usage: python docs/studies/lean/smollm.py FOLDER. Needs `pip install 'gaincurate[score,demo]'`.

The model (`--model demo`, its Q4_1 weights as float32) is first trained on 40 batches of 16 examples of other
prompts, so that it gives the bare answer. Its chat template has no system message. Products are in bfloat16.
As in `worlds.py`, the set that is chosen from also has harder prompts of the same generators, and the
held-out prompts have none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "head_to_head"))

import numpy as np
import torch
import transformers
from policy import Policy, trees
from prompts import Task, distinct
from safetensors.torch import save_file

from gaincurate.core.files import write_lines
from gaincurate.scoring.model import find_model, load_config, load_model, load_tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BATCH, STEPS, RATE = 16, 40, 1e-5
EXAMPLES, JUDGED = 60, 25
MOST = 0.2
"""Of a task's prompts in each part that have one answer: 68 % of letter counting with few words is 1."""
TASKS = [
    Task("chain_sum", 1, 64, EXAMPLES, {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}),
    Task("chain_sum", 2, 48, EXAMPLES, {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}),
    Task("products", 1, 48, EXAMPLES, {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    Task("letter_counting", 1, 64, EXAMPLES, {"min_words": 2, "max_words": 4}),
    Task("letter_counting", 2, 48, EXAMPLES, {"min_words": 6, "max_words": 8}),
    Task("needle_haystack", 1, 48, EXAMPLES, {"min_num_statements": 2, "max_num_statements": 3}),
    Task(
        "basic_arithmetic",
        1,
        64,
        EXAMPLES,
        {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
    ),
]
HARD = [
    Task("chain_sum", 9, 260, EXAMPLES, {"min_terms": 4, "max_terms": 6, "min_digits": 3, "max_digits": 4}),
    Task("products", 9, 260, EXAMPLES, {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 4}),
    Task("spell_backward", 9, 260, EXAMPLES, {"min_word_len": 7, "max_word_len": 9}),
]  # fmt: skip
SHOWN_ONLY = {"needle_haystack", "spell_backward"}
"""In the examples alone: their answers have hundreds of spellings, too many to judge exactly."""


def prompts(folder: Path) -> list[dict[str, Any]]:
    """Write the prompts to choose from and those to judge on; return the examples."""
    taken: set[str] = set()
    train: list[dict[str, Any]] = []
    heldout: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    for number, task in enumerate(TASKS + HARD):
        judged = JUDGED if task.level < 9 else 0
        parts = [(heldout, judged), (train, task.prompts), (examples, task.examples)]
        for place, (part, wanted) in enumerate(parts):
            if part is examples or task.name not in SHOWN_ONLY:
                seed = 500 + 100 * place + number
                part += [dict(row) for row in distinct(task, seed, wanted, taken, MOST)]
    for name, part in (("train", train), ("heldout", heldout)):
        write_lines(folder / f"{name}.jsonl", part)
        print(f"{name}: {len(part)} prompts")
    return examples


def start(folder: Path) -> Any:
    """Write the model as it is, in float32, and return its tokenizer."""
    files = find_model("demo")
    tokenizer: Any = load_tokenizer(files)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    loaded: Any = load_model(
        files, load_config(files), device="cpu", dtype="float32", auto=transformers.AutoModelForCausalLM
    )
    weights = {n: w.detach().clone() for n, w in loaded.state_dict().items() if n != "lm_head.weight"}
    config = json.loads(loaded.config.to_json_string(use_diff=False))
    config.pop("quantization_config", None)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}, indent=1))
    return tokenizer


def learn(folder: Path, tokenizer: Any, examples: list[dict[str, Any]]) -> None:
    """Train on the form of an answer."""
    torch.set_num_threads(1)
    policy = Policy(folder)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    random = np.random.default_rng(0)
    for step in range(STEPS):
        rows = [examples[place] for place in random.choice(len(examples), BATCH, replace=False)]
        asked = [ids_of(tokenizer, str(row["question"])) for row in rows]
        answers = [[[*tokenizer.encode(str(row["answer"])), tokenizer.eos_token_id]] for row in rows]
        loss = -policy.log_probs(trees(asked, answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 5)
        optimizer.step()
        if step % 5 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    save_file(policy.named(), folder / "model.safetensors", {"format": "pt"})


def ids_of(tokenizer: Any, question: str) -> list[int]:
    """The prompt's tokens."""
    messages = [{"role": "user", "content": question}]
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


def main(folder: Path) -> None:
    """Make what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = prompts(folder)
    if not (folder / "model" / "learnt").exists():
        (folder / "model").mkdir(exist_ok=True)
        learn(folder / "model", start(folder / "model"), examples)
        (folder / "model" / "learnt").touch()
    for name, data in (("scored", "train"), ("heldout", "heldout")):
        score = ["score", folder / f"{data}.jsonl", "--model", folder / "model", "--out", folder / name]
        command = [sys.executable, "-m", "gaincurate", *score, "--threads", "1"]
        subprocess.run(list(map(str, command)), check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))

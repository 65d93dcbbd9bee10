"""Sums that a tiny model can learn: a tokenizer by character, a model that was shown some answers, a reward."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

import runs
import sets
from gaincurate.schedule.run import Run

LARGEST = 14
CHARACTERS = ["<pad>", "<eos>", *"0123456789+="]


def tokenizer() -> Any:
    """One token a character."""
    raw = Tokenizer(models.WordLevel({text: place for place, text in enumerate(CHARACTERS)}, "<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    raw.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )
    fast.chat_template = "{{ messages[0]['content'] }}"
    return fast


def sums(largest: int = LARGEST) -> list[dict[str, Any]]:
    """Every sum of two numbers from 0, in an order that mixes easy and hard ones."""
    pairs = list(itertools.product(range(largest + 1), repeat=2))
    mixed = (pairs[place * 389 % len(pairs)] for place in range(len(pairs)))
    return [{"prompt": f"{a}+{b}=", "answer": str(a + b), "gc_id": f"{a}+{b}"} for a, b in mixed]


def dataset(largest: int = LARGEST) -> Any:
    """The sums as a trainer reads them."""
    return datasets.Dataset.from_list(sums(largest))


def right(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """The reward: whether the completion, a text or a chat's message, is the sum and nothing else."""
    texts = [given if isinstance(given, str) else given[0]["content"] for given in completions]
    return [float(text == wanted) for text, wanted in zip(texts, answer, strict=True)]


def save_model(folder: Path, steps: int, seed: int = 0, largest: int = LARGEST) -> Path:
    """A model that saw so many batches of right answers."""
    texts = [row["prompt"] + row["answer"] for row in sums(largest)]
    batches = ([texts[place] for place in torch.randint(len(texts), (64,)).tolist()] for _ in range(steps))
    return save_taught(folder, batches, seed=seed, width=64, heads=4, positions=64)


def save_taught(
    folder: Path,
    batches: Iterable[list[str]],
    *,
    seed: int,
    width: int,
    heads: int,
    positions: int,
    given: int = 0,
) -> Path:
    """A model of two layers that saw these texts, as a trainer leaves it; nothing is learned of a text's
    first `given` characters.
    """
    torch.manual_seed(seed)
    tokens = tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(CHARACTERS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for texts in batches:
        ended = [text + "<eos>" for text in texts]
        batch = tokens(ended, return_tensors="pt", padding=True, return_token_type_ids=False)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        labels[:, :given] = -100
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def begin(folder: Path, *, name: str = "run", budget: int = 8, rounds: int = 3, largest: int = 9) -> Run:
    """A run over the sums with `budget` prompts a round."""
    rows = [
        sets.scored_row(row["gc_id"], row["prompt"], float(place % 7), 4) | {"answer": row["answer"]}
        for place, row in enumerate(sums(largest))
    ]
    if not (folder / "set").exists():
        sets.make_set(folder / "set", [rows], answer="answer")
    sizes: dict[str, Any] = {"budget": budget, "rounds": rounds, "options": {"sigma": "0.3N"}}
    return runs.begin(folder, run=folder / name, model="m", **sizes)

"""Tiny models and tokenizers, made on the spot: real code paths without downloads or binaries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = [
    "What is 12 plus 7? The answer is 19.",
    "A train leaves the station at noon and the other train leaves an hour later.",
    "<|im_start|>user\nHow many apples are there in the basket?<|im_end|>\n",
] * 3


def tokenizer(template: str | None = CHATML, *, merges: int = 80) -> Any:
    """A byte-level BPE with a few merges, so that tokens can stand astride a border."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(special) + merges,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_CORPUS, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = template
    return fast


COMMON: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def model(config: Any, seed: int = 0) -> Any:
    """Random weights, larger than the usual initial ones so that layers matter."""
    torch.manual_seed(seed)
    made = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.2)
    return made.eval()


def longrope(turn: int) -> transformers.Phi3Config:
    """Of a model that turns up to so many tokens in another way than more."""
    original = {"original_max_position_embeddings": turn}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 17.0, **original}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [1.0, 4.0, 7.0, 10.0]}
    return transformers.Phi3Config(**{**COMMON, **original, "rope_parameters": rope})


def save_model(folder: Path, config: Any | None = None, template: str | None = CHATML) -> Path:
    """A model folder as a trainer leaves it: config, safetensors, tokenizer."""
    made = model(config or transformers.LlamaConfig(**COMMON))
    made.save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder


def questions(count: int) -> list[dict[str, Any]]:
    """Rows with a text prompt of varying length, an answer and a number."""
    words = ("how", "many", "red", "green", "blue", "apples", "are", "there", "in", "the", "old", "basket")
    rows = []
    for i in range(count):
        text = " ".join(words[(i * 7 + k) % len(words)] for k in range(3 + i * 5 % 23))
        rows.append({"question": f"{text} {i}?", "answer": str(i * 3), "level": i % 5})
    return rows


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """One object per line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path

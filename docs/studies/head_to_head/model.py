"""Makes the model of the study in docs/head-to-head.md: a small decoder that solves some prompts sometimes.

Usage: python docs/studies/head_to_head/model.py PROMPTS FOLDER [STEPS].
Needs torch 2.9 or newer, which has Muon.
PROMPTS is what prompts.py wrote. The tokenizer is trained on those texts, the weights from scratch on the
supervised examples, with one thread and fixed seeds: the same machine and libraries give the same weights.
`facts.json` comes last, so a folder with it is whole and is left alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gaincurate.core.files import write_json

PAD, END, SYSTEM, USER, ASSISTANT = SPECIAL = [
    "<|pad|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 600
STEPS, BATCH, PEAK, WARM = 1150, 48, 2e-3, 60
PROMPT_WEIGHT = 0.1  # so that the likelihood of a prompt says something
POOL = 16  # batches whose examples are sorted by length, so that little of a batch is padding
SAMPLES, LONGEST = 16, 10
FACTS = "facts.json"

Row = dict[str, Any]
Pair = tuple[list[int], list[int]]
"""Token ids of a prompt and of its answer."""


def read(path: Path) -> list[Row]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_tokenizer(texts: list[str]) -> Any:
    """Byte pairs that may run over words, so that a task's fixed text is few tokens; digits stay single."""
    raw = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=END, pad_token=PAD, padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_decoder() -> Any:
    """An untrained decoder of some 3 million parameters."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def pairs(tokenizer: Any, rows: list[Row]) -> list[Pair]:
    """What the model sees and what it shall say."""
    asked = tokenizer([f"{USER}{row['question']}{END}{ASSISTANT}" for row in rows]).input_ids
    said = tokenizer([f"{row['answer']}{END}" for row in rows]).input_ids
    return list(zip(asked, said, strict=True))


def batches(examples: list[Pair], steps: int) -> list[list[Pair]]:
    """`steps` batches of examples of like length, shuffled, over as many passes as that takes."""
    random = np.random.default_rng(0)
    found: list[list[Pair]] = []
    order: list[int] = []
    while len(found) < steps:
        while len(order) < POOL * BATCH:
            order += random.permutation(len(examples)).tolist()
        pool = sorted((examples[i] for i in order[: POOL * BATCH]), key=lambda pair: len(pair[0] + pair[1]))
        del order[: POOL * BATCH]
        found += [pool[k * BATCH : (k + 1) * BATCH] for k in random.permutation(POOL).tolist()]
    return found[:steps]


def loss_of(model: Any, batch: list[Pair]) -> torch.Tensor:
    """The mean negative log-likelihood of the answers' tokens, and with little weight of the prompts'."""
    width = max(len(asked) + len(said) for asked, said in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    parts = torch.zeros(len(batch), width, dtype=torch.long)
    for row, (asked, said) in enumerate(batch):
        end = len(asked) + len(said)
        ids[row, :end] = torch.tensor(asked + said)
        parts[row, : len(asked)], parts[row, len(asked) : end] = 1, 2
    # Padding stands behind: what comes before it does not see it.
    logits = model(input_ids=ids).logits[:, :-1]
    values = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    asked_loss, said_loss = (values[parts[:, 1:] == part].mean() for part in (1, 2))
    return said_loss + PROMPT_WEIGHT * asked_loss


def orthogonalized(
    grad: torch.Tensor, ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float
) -> torch.Tensor:
    """Muon's Newton-Schulz iteration in float32, in place of torch's in bfloat16.

    A processor without products in bfloat16 takes some eight times as long for torch's.
    """
    a, b, c = ns_coefficients
    tall = grad.size(0) > grad.size(1)
    x = grad.T if tall else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def make_optimizers(model: Any) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, which in as many steps gets much further than AdamW here; AdamW for the rest."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "bf16"
    if "bf16" not in flags:
        torch.optim._muon._zeropower_via_newtonschulz = orthogonalized
    inner = [weights for weights in model.model.layers.parameters() if weights.dim() == 2]
    taken = {id(weights) for weights in inner}
    rest = [weights for weights in model.parameters() if id(weights) not in taken]
    return [
        torch.optim.Muon(inner, lr=PEAK, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(model: Any, examples: list[Pair], steps: int) -> float:
    """Supervised steps; the mean loss of the last fifty."""
    optimizers = make_optimizers(model)
    model.train()
    losses: list[float] = []
    begin = time.perf_counter()
    for step, batch in enumerate(batches(examples, steps)):
        share = step / steps
        rate = PEAK * min(1.0, (step + 1) / WARM) * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss = loss_of(model, batch)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1}: loss {np.mean(losses[-100:]):.3f}, {time.perf_counter() - begin:.0f} s",
                flush=True,
            )
    model.eval()
    return float(np.mean(losses[-50:]))


@torch.inference_mode()
def sample(model: Any, asked: list[list[int]], count: int, seed: int) -> list[list[int]]:
    """`count` completions at temperature 1 of each of some prompts of one length, without the end token."""
    torch.manual_seed(seed)
    end, pad = model.config.eos_token_id, model.config.pad_token_id
    out = model(torch.tensor(asked), use_cache=True, logits_to_keep=1)
    cache = out.past_key_values
    cache.batch_repeat_interleave(count)
    logits = out.logits[:, -1].repeat_interleave(count, 0)
    open_ = torch.ones(len(logits), dtype=torch.bool)
    said: list[list[int]] = [[] for _ in range(len(logits))]
    for _ in range(LONGEST):
        token = torch.multinomial(logits.softmax(-1), 1).where(open_[:, None], torch.tensor(pad))
        open_ &= token[:, 0] != end
        if not open_.any():
            break
        for row in open_.nonzero()[:, 0].tolist():
            said[row].append(int(token[row, 0]))
        logits = model(token, past_key_values=cache, use_cache=True).logits[:, -1]
    return said


def rates(model: Any, tokenizer: Any, rows: list[Row], count: int) -> list[float]:
    """The share of right completions of each prompt."""
    places: dict[int, list[int]] = defaultdict(list)
    examples = pairs(tokenizer, rows)
    for place, (asked, _) in enumerate(examples):
        places[len(asked)].append(place)
    found = [0.0] * len(rows)
    for seed, (_, chosen) in enumerate(sorted(places.items())):
        said = sample(model, [examples[place][0] for place in chosen], count, seed)
        texts = tokenizer.batch_decode(said, skip_special_tokens=True)
        for k, place in enumerate(chosen):
            right = [text.strip() == rows[place]["answer"] for text in texts[k * count : (k + 1) * count]]
            found[place] = sum(right) / count
    return found


def histograms(rows: list[Row], passed: list[float]) -> dict[str, dict[str, Any]]:
    """Of each task and level, and of all: mean pass rate, and prompts by pass rate."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row, rate in zip(rows, passed, strict=True):
        groups[f"{row['source']} {row['level']}"].append(rate)
    found: dict[str, dict[str, Any]] = {}
    for name, values in [*groups.items(), ("all", passed)]:
        of = np.array(values)
        edges = [(of == 0).sum(), ((of > 0) & (of <= 0.1)).sum(), ((of > 0.1) & (of <= 0.5)).sum()]
        edges += [((of > 0.5) & (of < 0.9)).sum(), ((of >= 0.9) & (of < 1)).sum(), (of == 1).sum()]
        names = ("0", "to .1", "to .5", "below .9", "below 1", "1")
        found[name] = {
            "prompts": len(of),
            "mean": round(float(of.mean()), 3),
            "by rate": dict(zip(names, map(int, edges), strict=True)),
        }
    return found


def main(prompts: Path, folder: Path, steps: int) -> None:
    """Make the model where it is not there."""
    if (folder / FACTS).exists():
        print(f"{folder} is there")
        return
    begin = time.perf_counter()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    rows = read(prompts / "supervised.jsonl")
    tokenizer = make_tokenizer([text for row in rows for text in (row["question"], row["answer"])])
    model = make_decoder()
    loss = train(model, pairs(tokenizer, rows), steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    trained = time.perf_counter() - begin
    asked = read(prompts / "train.jsonl")
    facts = {
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "steps": steps,
        "examples": len(rows),
        "loss": round(loss, 4),
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "training_seconds": round(trained, 1),
        "pass_rates": histograms(asked, rates(model, tokenizer, asked, SAMPLES)),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_json(folder / FACTS, facts)
    for name, value in facts["pass_rates"].items():
        print(f"{name:26} {value['mean']:.2f}  {value['by rate']}")
    print({name: value for name, value in facts.items() if name != "pass_rates"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else STEPS)

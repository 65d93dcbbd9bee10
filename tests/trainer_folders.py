"""Checkpoints as trainers write them: the files in their order, without the trainers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save as pack

Write = tuple[str, bytes]
"""A name relative to the output root and what is written there; a name with `->` renames, without bytes."""

WEIGHTS = pack({"w": np.arange(12, dtype=np.float32).reshape(3, 4), "v": np.zeros(0, np.int64)})
SHARDS = [pack({f"w{k}": np.full((2, 2), k, np.float32)}) for k in range(2)]
ADAPTER = pack({"base_model.model.w.lora_A.weight": np.zeros((2, 3), np.float32)})
ADAPTER_CONFIG = json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}).encode()
INDEX = json.dumps({"weight_map": {f"w{k}": f"model-0000{k + 1}-of-00002.safetensors" for k in range(2)}})
CONFIG: Write = ("config.json", b'{"model_type": "llama"}')
TOKENIZER: list[Write] = [
    ("chat_template.jinja", b"{{ messages }}"),
    ("tokenizer_config.json", b'{"a": 1}'),
    ("tokenizer.json", b'{\n  "b": {\n    "c": 1\n  }\n}'),
]


def at(folder: str, writes: Sequence[Write]) -> list[Write]:
    """The same in a folder."""
    return [(f"{folder}/{name}", data) for name, data in writes]


def model(shards: bool = False) -> list[Write]:
    """What `save_pretrained` of a model writes."""
    if not shards:
        return [CONFIG, ("model.safetensors", WEIGHTS)]
    files = [(f"model-0000{k + 1}-of-00002.safetensors", data) for k, data in enumerate(SHARDS)]
    return [CONFIG, *files, ("model.safetensors.index.json", INDEX.encode())]


def adapter() -> list[Write]:
    """What `save_pretrained` of a peft model writes."""
    return [("adapter_model.safetensors", ADAPTER), ("adapter_config.json", ADAPTER_CONFIG)]


def trl(step: int, what: Sequence[Write] | None = None) -> list[Write]:
    state: list[Write] = [
        (name, b"pickle") for name in ("training_args.bin", "optimizer.pt", "rng_state.pth")
    ]
    state.append(("trainer_state.json", json.dumps({"epoch": 0.5, "global_step": step}).encode()))
    return at(f"checkpoint-{step}", [*(model() if what is None else what), *TOKENIZER, *state])


def _verl(step: int, hf: bool) -> list[Write]:
    names = ("model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt", "optim_world_size_2_rank_0.pt")
    files = at(
        f"global_step_{step}/actor", [*[(name, b"pickle") for name in names], ("fsdp_config.json", b"{}")]
    )
    files += at(f"global_step_{step}/actor/huggingface", [CONFIG, *TOKENIZER, *(model(True) if hf else [])])
    return files


def verl(step: int, hf: bool = True) -> list[Write]:
    tracker = [("latest_checkpointed_iteration.txt", str(step).encode())]
    return [*_verl(step, hf), (f"global_step_{step}/data.pt", b"pickle"), *tracker]


def openrlhf(step: int, hf: bool = True) -> list[Write]:
    deepspeed = [(f"_actor/global_step{step}/mp_rank_00_model_states.pt", b"pickle")]
    deepspeed += [("_actor/latest", f"global_step{step}".encode())]
    return deepspeed + (at(f"global_step{step}_hf", [*model(True), *TOKENIZER]) if hf else [])


def nemo_rl(step: int, hf: bool = True) -> list[Write]:
    weights = [("shard-00001-model-00001-of-00001.safetensors", WEIGHTS), (".metadata", b"pickle")]
    weights += at("consolidated", model()) if hf else []
    files = at("policy/weights/model", weights) + at("policy/tokenizer", TOKENIZER)
    made = at(f"tmp_step_{step}", [("training_info.json", b"{}"), ("config.yaml", b"a: 1"), *files])
    return [*made, (f"tmp_step_{step}->step_{step}", b"")]


def skyrl(step: int, hf: bool = True) -> list[Write]:
    files = [
        ("policy/model_world_size_2_rank_0.pt", b"pickle"),
        *at("policy/huggingface", [CONFIG, *TOKENIZER]),
    ]
    kept = at(f"ckpts/global_step_{step}", [*files, ("data.pt", b"pickle"), ("trainer_state.pt", b"pickle")])
    kept.append(("ckpts/latest_ckpt_global_step.txt", str(step).encode()))
    return kept + (at(f"exports/global_step_{step}/policy", [*model(True), *TOKENIZER]) if hf else [])


def slime(step: int, hf: bool = True) -> list[Write]:
    megatron = at(f"iter_{step:07d}", [("__0_0.distcp", b"pickle"), ("common.pt", b"pickle")])
    megatron.append(("latest_checkpointed_iteration.txt", str(step).encode()))
    shards = [(f"model-0000{k + 1}.safetensors", data) for k, data in enumerate(SHARDS)]
    names = [(f"hf/{step}/{name}->hf/{step}/{name[:11]}-of-00002.safetensors", b"") for name, _ in shards]
    files = at(f"hf/{step}", [CONFIG, *TOKENIZER, *shards])
    return megatron + (
        [*files, *names, (f"hf/{step}/model.safetensors.index.json", INDEX.encode())] if hf else []
    )


def prime_rl(step: int, hf: bool = True) -> list[Write]:
    kept = [(f"checkpoints/step_{step}/trainer/__0_0.distcp", b"pickle")]
    sent = at(f"broadcasts/step_{step}", [("tmp-rank0.safetensors", WEIGHTS)])
    sent.append((f"{sent[0][0]}->broadcasts/step_{step}/model.safetensors", b""))
    return kept + ([*sent, (f"broadcasts/step_{step}/STABLE", b"")] if hf else [])


def trinity(step: int, hf: bool = True) -> list[Write]:
    tracker = [("latest_checkpointed_iteration.txt", str(step).encode())]
    return [(f"global_step_{step}/.full_checkpoint", b""), *_verl(step, hf), *tracker]


def areal(step: int) -> list[Write]:
    return at(f"default/epoch0epochstep{step}globalstep{step}", [*model(True), *TOKENIZER])


ORDERS: dict[str, Callable[..., list[Write]]] = {
    "trl": trl, "verl": verl, "openrlhf": openrlhf, "nemo-rl": nemo_rl, "skyrl": skyrl, "slime": slime,
    "prime-rl": prime_rl, "trinity": trinity, "areal": areal,
}  # fmt: skip


def write(root: Path, writes: Sequence[Write]) -> Path:
    """Do it."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in writes:
        before, arrow, after = name.partition("->")
        if arrow:
            (root / before).rename(root / after)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    return root

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny
from gaincurate.errors import ModelError
from gaincurate.trainers.checkpoints import see_mergeable
from gaincurate.trainers.lora import main, merge

# peft asks transformers by a name that transformers has since replaced.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
TARGETS = ("q_proj", "down_proj")


def factors(folder: Path, rank: int = 4, seed: int = 1) -> dict[str, torch.Tensor]:
    """An adapter's two factors for each target, named as peft names them."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if any(f".{target}." in name for target in TARGETS):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            found[f"{stem}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=random)
            found[f"{stem}.lora_B.weight"] = torch.randn(weight.shape[0], rank, generator=random)
    return found


def adapter(folder: Path, base: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    """A checkpoint as peft saves it, written by hand."""
    folder.mkdir()
    config: dict[str, Any] = {"peft_type": "LORA", "base_model_name_or_path": str(base), "bias": "none"}
    config |= {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 6, "target_modules": list(TARGETS)} | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(factors(base) if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("base") / "model")


@pytest.mark.parametrize(
    ("changes", "scale"),
    [({}, 6 / 4), ({"use_rslora": True}, 6 / math.sqrt(4)), ({"alpha_pattern": {"q_proj": 2}}, None)],
    ids=["alpha over r", "rslora", "alpha of one module"],
)
def test_merged_weights_are_exact(tmp_path: Path, base: Path, changes: Any, scale: float | None) -> None:
    pytest.importorskip("peft")
    folder = adapter(tmp_path / "adapter", base, **changes)
    merge(folder, tmp_path / "out")
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    tensors = factors(base)
    assert set(before) == set(after)
    changed = 0
    for name, weight in before.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        wanted = weight.double()
        if f"{stem}.lora_A.weight" in tensors:
            by = scale if scale is not None else (2 / 4 if "q_proj" in name else 6 / 4)
            low, high = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
            wanted = wanted + by * high.double() @ low.double()
            changed += 1
        found = after[name].numpy()
        assert found.dtype == np.float32
        # A product of rank 4 and a sum in float32: some units in the last place of the largest term.
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert changed == 2 * 3


def test_the_merged_model_says_what_the_model_with_its_adapter_says(tmp_path: Path, base: Path) -> None:
    peft = pytest.importorskip("peft")
    made = transformers.AutoModelForCausalLM.from_pretrained(base)
    tuned = peft.get_peft_model(made, peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(TARGETS)))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    tiny.tokenizer("{{ 'trained' }}").save_pretrained(tmp_path / "adapter")
    assert main([str(tmp_path / "adapter"), "--out", str(tmp_path / "out"), "--base", str(base)]) == 0
    ids = torch.arange(3, 20)[None]
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, tuned(ids).logits, rtol=1e-4, atol=1e-4)
        plain = transformers.AutoModelForCausalLM.from_pretrained(base)(ids).logits
    assert not torch.allclose(merged(ids).logits, plain, atol=1e-2)
    # The tokenizer is the trained one's, as its chat template is.
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ 'trained' }}"


def test_without_a_tokenizer_of_its_own_the_base_models_is_taken(tmp_path: Path, base: Path) -> None:
    pytest.importorskip("peft")
    merge(adapter(tmp_path / "adapter", base), tmp_path / "out")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (tmp_path / "out/chat_template.jinja").read_text() == tiny.CHATML


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, base: Path) -> None:
    pytest.importorskip("peft")
    tensors = factors(base)
    some = dict(sorted(tensors.items())[2:])
    more = {**tensors, "base_model.model.other.q_proj.lora_A.weight": torch.zeros(4, 4)}
    wide = {name: torch.zeros(tensor.shape[0], tensor.shape[1] + 1) for name, tensor in tensors.items()}
    for number, (given, changes) in enumerate(
        ((some, {}), (more, {}), (wide, {}), (tensors, {"target_modules": ["none_such"]}))
    ):
        folder = adapter(tmp_path / f"a{number}", base, given, **changes)
        with pytest.raises(ModelError) as caught:
            merge(folder, tmp_path / "out")
        assert str(caught.value).startswith(f"{folder} does not fit the base model {base}: ")
        assert not (tmp_path / "out").exists()


def test_an_adapter_of_a_matrix_that_stands_for_two_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    tied = tiny.save_model(
        tmp_path / "tied", transformers.LlamaConfig(**tiny.COMMON, tie_word_embeddings=True)
    )
    tensors = {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 32)}
    folder = adapter(tmp_path / "adapter", tied, tensors, target_modules=["lm_head"])
    with pytest.raises(ModelError, match="changes lm_head or embed_tokens, which are one matrix in .*tied"):
        merge(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "{0} is a PREFIX_TUNING adapter; only LoRA can be"),
        ({"lora_alpha": 0}, "{0}/adapter_config.json has lora_alpha 0, with which nothing would be merged"),
    ],
)
def test_what_cannot_be_merged_is_refused(tmp_path: Path, base: Path, changes: Any, sentence: str) -> None:
    folder = adapter(tmp_path / "adapter", base, **changes)
    with pytest.raises(ModelError) as caught:
        see_mergeable(folder)
    assert str(caught.value).startswith(sentence.format(folder))
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"adapter_config.json is no adapter's configuration\."):
        see_mergeable(folder)


def test_a_missing_base_model_is_named(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    gone = tmp_path / "gone"
    folder = adapter(tmp_path / "adapter", base, base_model_name_or_path=str(gone))
    by_hand = f"`python -m gaincurate.trainers.lora {folder} --base FOLDER --out OUT` merges it by hand."
    with pytest.raises(ModelError) as caught:
        merge(folder, tmp_path / "out")
    assert str(caught.value).startswith(f"{folder} was trained on {gone}, which is not on this machine (")
    assert str(caught.value).endswith(f"; put it there, or {by_hand}")
    nameless = adapter(tmp_path / "nameless", base, base_model_name_or_path=None)
    with pytest.raises(ModelError, match="does not name its base model; `python -m gaincurate.trainers.lora"):
        merge(nameless, tmp_path / "out")


def test_as_a_program_it_ends_with_a_sentence(tmp_path: Path, base: Path) -> None:
    folder = adapter(tmp_path / "adapter", base, peft_type="IA3")
    command = [sys.executable, "-m", "gaincurate.trainers.lora", str(folder), "--out"]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, str(tmp_path / "out")], capture_output=True, text=True, env={**os.environ, **paths}
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder} is a IA3 adapter")
    assert main([str(folder), "--out", str(tmp_path)]) == 2

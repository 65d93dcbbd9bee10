from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import exports
from command import run as gaincurate
from gaincurate.trainers.profile import TRAINERS, profiles

SETTINGS = {
    "trl": [
        "train_dataset = datasets.load_dataset(\"parquet\", data_files='{file}', split=\"train\")",
        "config = trl.GRPOConfig(shuffle_dataset=False, dataloader_num_workers=0, remove_unused_columns=False)",
    ],
    "verl": [
        "data.train_files={file}", "data.prompt_key=prompt", "data.reward_fn_key=data_source",
        "data.shuffle=False", "data.dataloader_num_workers=0", "data.filter_overlong_prompts=False",
        "data.train_max_samples=-1",
    ],
    "openrlhf": [
        "--data.prompt_dataset", "{file}", "--data.prompt_split", "train", "--data.input_key", "prompt",
        "--data.apply_chat_template", "--data.label_key", "label",
    ],
    "nemo-rl": [
        "++data.train.dataset_name=ResponseDataset", "++data.train.data_path={file}",
        "++data.train.input_key=input", "++data.train.output_key=output",
        "++data.train.split_validation_size=0", "++data.default.prompt_file=null",
        "++data.default.system_prompt_file=null", "++data.default.processor=math_hf_data_processor",
        "++data.shuffle=false",
    ],
    "skyrl": ["data.train_data=['{file}']", "environment.env_class=gsm8k"],
    "slime": [
        "--prompt-data", "{file}", "--input-key", "prompt", "--label-key", "label", "--metadata-key",
        "metadata", "--apply-chat-template",
    ],
    "open-instruct": ["--dataset_mixer_list", "{file}", "1.0", "--dataset_mixer_list_splits", "train"],
}  # fmt: skip
MORE = {
    "verl": ["--data-source", "openai/gsm8k"],
    "roll": ["--data-source", "math_rule"],
    "open-instruct": ["--data-source", "gsm8k"],
    "skyrl": ["--env-class", "gsm8k"],
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_gets_a_file_and_settings_that_name_it(tmp_path: Path, trainer: str) -> None:
    scored = exports.make_set(tmp_path / "set", exports.sums())
    file = tmp_path / f"o u/{trainer}{profiles()[trainer].suffixes[0]}"
    more = MORE.get(trainer, [])
    result = gaincurate("export", scored, "--trainer", trainer, "--out", file, *more)
    assert result.exit_code == 0, result.stderr
    assert f"{trainer}.{file.suffix[1:]}: 6 rows for {trainer} " in result.stderr
    told = json.loads(
        gaincurate(
            "export", scored, "--trainer", trainer, "--out", file, "--overwrite", "--json", *more
        ).stdout
    )
    assert told["rows"] == 6
    assert told["made"]["trainer"] == trainer
    assert (str(file) in result.stdout) or (str(file.parent) in result.stdout) or told["form"] == "flags"
    if told["form"] == "flags":
        assert shlex.split(result.stdout) == told["settings"]
    else:
        assert result.stdout.splitlines() == told["settings"]
    if trainer in SETTINGS:
        name = f"'{file}'" if trainer in ("verl", "nemo-rl") else str(file)
        assert told["settings"] == [line.format(file=name) for line in SETTINGS[trainer]]


def test_scores_and_limits_reach_the_file(tmp_path: Path) -> None:
    scored, file = exports.make_set(tmp_path / "set", exports.sums()), tmp_path / "x.parquet"
    options = ["--by", "gc_angle", "--ascending", "--limit", 2, "--with-scores", "--plain-answer"]
    assert gaincurate("export", scored, "--trainer", "openrlhf", "--out", file, *options).exit_code == 0
    table = pq.read_table(file)
    assert table.column("gc_id").to_pylist() == ["id0005", "id0004"]
    assert table.column("label").to_pylist() == ["10", "8"]
    assert "gc_angle" in table.column_names


def test_a_file_that_cannot_be_written_says_nothing_of_shards(tmp_path: Path) -> None:
    scored = exports.make_set(tmp_path / "set", exports.sums())
    (tmp_path / "file").write_text("")
    result = gaincurate("export", scored, "--trainer", "trl", "--out", tmp_path / "file/d/x.parquet")
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: cannot write {tmp_path}/file/d: a part of the path is a file, not a folder. Put that "
        "right and run the same command again.\n",
    )

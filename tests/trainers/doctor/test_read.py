"""Settings from files, scripts and flags, as the trainer would get them."""

from __future__ import annotations

import io
import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.errors import InputError
from gaincurate.trainers.doctor.read import COMMAND, read_script, read_settings
from gaincurate.trainers.doctor.settings import NotKnown, Settings, flat, scalar, shown

YAML = "data:\n  shuffle: true\n  files: [a, b]\ntrain:\n  - {dataset_name: x}\n"
TOML = 'max_steps = 4\n[[orchestrator.train.source]]\nname = "a"\n'


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def settings_of(text: str, *markers: str) -> dict[str, Any]:
    return read_script(text, markers).given


def test_three_formats_say_the_same(tmp_path: Path) -> None:
    wanted = {"data.shuffle": True, "data.files": ["a", "b"], "train.0.dataset_name": "x"}
    toml = '[data]\nshuffle = true\nfiles = ["a", "b"]\n[[train]]\ndataset_name = "x"\n'
    tree = json.dumps({"data": {"shuffle": True, "files": ["a", "b"]}, "train": [{"dataset_name": "x"}]})
    for name, text in (("c.yaml", YAML), ("c.json", tree), ("c.toml", toml)):
        assert read_settings([written(tmp_path, name, text)], []).given == wanted


def test_later_ones_win_and_each_setting_has_its_source(tmp_path: Path) -> None:
    base = written(tmp_path, "base.yaml", "a: 1\nb: 2\n")
    line = written(tmp_path, "launch.sh", "python -m main_ppo b=3 c=4")
    read = read_settings([base, line], ["main_ppo"], command=["c=5", "--e", "1", "2"])
    assert read.given == {"a": 1, "b": 3, "c": 5, "e": [1, 2]}
    assert read.sources == {"a": base, "b": line, "c": COMMAND, "e": COMMAND}


def test_a_file_that_a_launch_line_names_comes_before_the_line(tmp_path: Path) -> None:
    written(tmp_path, "rl.toml", TOML)
    for at in ("@ ", "@", "--config "):
        line = written(tmp_path, "launch.sh", f"uv run rl {at}rl.toml --max-steps 8")
        read = read_settings([line], ["rl"])
        assert read.given == {"max_steps": 8, "orchestrator.train.source.0.name": "a"}
        assert not read.notes
    missing = written(tmp_path, "other.sh", "uv run rl @ gone.toml --max-steps 8")
    assert "names gone.toml, which is not here" in read_settings([missing], ["rl"]).notes[0]


def test_hydras_own_way_to_name_a_file(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    written(tmp_path / "conf", "mine.yaml", "data:\n  shuffle: false\n  train_batch_size: 7\n")
    line = f"python -m main_ppo --config-path {tmp_path}/conf --config-name mine data.train_batch_size=8"
    read = read_settings([written(tmp_path, "launch.sh", line)], ["main_ppo"])
    assert read.given == {"data.shuffle": False, "data.train_batch_size": 8}


def test_a_file_begins_with_those_that_its_defaults_name(tmp_path: Path) -> None:
    """As NeMo-RL merges them: parents from beside the file, in their order, and the file over them."""
    (tmp_path / "more").mkdir()
    root = "a: {x: 1, y: 1, z: 1}\nlist: [1, 2]\ndata: {train: {name: old, part: 0.1}}\n"
    written(tmp_path, "root.yaml", root)
    written(tmp_path, "base.yaml", "defaults: root.yaml\na: {y: 2}\n")
    written(tmp_path, "other.yaml", "a: {y: 3, z: 3}\nlist: [3]\n")
    changes = "a: {z: 4}\ndata: {_override_: true, train: [{name: new}]}\n"
    child = written(tmp_path / "more", "child.yaml", f"defaults: [../base.yaml, ../other.yaml]\n{changes}")
    read = read_settings([child], [])
    assert read.given == {"a.x": 1, "a.y": 3, "a.z": 4, "list": [3], "data.train.0.name": "new"}
    assert (read.sections, read.notes) == ({"a", "list", "data"}, [])
    names = {key: Path(source).name for key, source in read.sources.items()}
    assert (names["a.x"], names["a.y"], names["a.z"]) == ("root.yaml", "other.yaml", "child.yaml")


def test_defaults_that_are_missing_or_lead_back(tmp_path: Path) -> None:
    read = read_settings([written(tmp_path, "child.yaml", "defaults: gone.yaml\na: 1\n")], [])
    assert (read.given, read.sections) == ({"a": 1}, set())
    assert "name gone.yaml, which is not here" in read.notes[0]
    alone = read_settings([written(tmp_path, "alone.yaml", "defaults: gone.yaml\n")], [])
    assert (alone.given, len(alone.notes)) == ({}, 1)
    written(tmp_path, "a.yaml", "defaults: b.yaml\n")
    written(tmp_path, "b.yaml", "defaults: a.yaml\n")
    with pytest.raises(InputError, match="its `defaults` lead back to"):
        read_settings([str(tmp_path / "a.yaml")], [])


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"shuffle_dataset: false\n")))
    assert read_settings(["-"], []).given == {"shuffle_dataset": False}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("gone.yaml", None, "there is no such file"),
        ("a.json", b"{", "this is no JSON: "),
        ("a.toml", b"a = \n", "this is no TOML: "),
        ("a.yaml", b"a: [1,\nb: }", "this is no YAML: "),
        ("a.yaml", b"- 1\n- 2\n", "this is no YAML with keys and values"),
        ("a.json", b"{}", "there is no setting in it"),
        ("a.yaml", b"\xff\xfe", "it cannot be read: byte 1 is not UTF-8"),
        ("a.sh", b"echo 'hello", "the script cannot be read: no closing quotation"),
        ("a.sh", b"echo hello", "there is no setting in it; expected YAML, JSON or TOML, or a command"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path: Path, name: str, text: bytes | None, sentence: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        read_settings([str(path)], [])
    assert f"{path}: {sentence}" in str(caught.value)


def test_a_script_as_people_write_them() -> None:
    script = """#!/bin/bash
# it's a comment with a quote
set -ex
N=8 ; export BATCH=$((N * (4 + 1)))
cat <<EOF > system.txt
Don't think.
EOF
ARGS=(
   --prompt-data "/data/with space.jsonl"   # not this: --rollout-shuffle
   #--num-epoch 9
   --rollout-batch-size ${BATCH}
)
ray start --head --num-gpus ${N}
ray job submit --address="http://127.0.0.1:8265" \\
   --runtime-env-json="{\\"env_vars\\": {}}" \\
   -- python3 train.py --actor-num-nodes 1 "${ARGS[@]}" \\
   --save ${SAVE:-/ckpt/first} --load $LOAD --ref $(dirname "$0")/ref > log.txt 2>&1 &
"""
    assert settings_of(script, "train.py") == {
        "actor_num_nodes": 1,
        "prompt_data": "/data/with space.jsonl",
        "rollout_batch_size": 40,
        "save": "/ckpt/first",
        "load": "$LOAD",
        "ref": "$(dirname...)/ref",
    }


def test_a_value_that_a_condition_or_another_file_sets_stays_unknown() -> None:
    script = """
. models/small.sh
LR=1e-6
SIZE=8
if [ "$LARGE" = 1 ]; then SIZE=64; fi
for seed in 1 2; do
    trl grpo --lr $LR --size $SIZE --seed $seed --for if
done
"""
    read = read_script(script, ["trl"])
    assert read.given == {"lr": 1e-6, "size": "$SIZE", "seed": "$seed", "for": "if"}
    assert "variables that `.`, `if`, `for` may set are not read" in read.notes[0]


def test_a_rounds_script() -> None:
    script = """
data=$1 round=$2 checkpoint="${3:-Qwen/Qwen3-8B}" output="$5"
model="${3:-Qwen/Qwen3-8B}"
gaincurate export run --trainer trl --out "$output/rows" --shuffle_dataset true
trl grpo --dataset_name "$data" --output_dir "$output/x" --max_steps $((4 * (round + 1))) --seed $GAINCURATE_ROUND \\
    --a "$checkpoint/x" --b "$model" --parent $(dirname $3)
"""
    assert settings_of(script, "trl") == {
        "dataset_name": "{data}",
        "output_dir": "{output}/x",
        "max_steps": "$((4*({round}+1)))",
        "seed": "{round}",
        "a": "{checkpoint}/x",
        "b": "${3}",
        "parent": "$(...)",
    }
    line = "gaincurate schedule run run -- python -m verl.trainer.main_ppo a={data} b=$((8*(round+1)))"
    assert settings_of(f"round=$2\n{line}", "main_ppo") == {"a": "{data}", "b": "$((8*({round}+1)))"}


def test_a_variable_that_grows_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="the variable a has more than 524,288 characters"):
        settings_of("a=xxxxxxxxxx\n" + "a=$a$a\n" * 60 + "python x b=$a")


WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="$\x00\x01\x02\x03", exclude_categories=["Cs"]),
    min_size=1,
)
KEYS = st.from_regex(r"[a-z]{3,9}(\.[a-z]{1,9}){0,2}", fullmatch=True)


@given(st.dictionaries(KEYS, WORDS, min_size=1))
def test_the_words_that_a_shell_would_pass_are_read(values: dict[str, str]) -> None:
    """Against the shell's own quoting: texts come back as they are, but for words that stand for values."""
    line = shlex.join(["python", "-m", "main_ppo", *(f"{key}={value}" for key, value in values.items())])
    read = settings_of(line, "main_ppo")
    assert set(read) == set(values)
    assert all(read[key] in (value, value.strip()) for key, value in values.items() if type(read[key]) is str)


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("trl x.main_ppo data.shuffle=True +data.extra=1 ++a.b=1e-6 ~data.gone c.d=null 'e=[x,2]'",
         {"data.shuffle": True, "data.extra": 1, "a.b": 1e-6, "data.gone": None, "c.d": None, "e": ["x", 2]}),
        ("trl grpo --shuffle_dataset False --lr=1e-5 --flag --names a b --no-cache --threshold -1 x.y=2",
         {"shuffle_dataset": False, "lr": 1e-5, "flag": True, "names": ["a", "b"], "cache": False,
          "threshold": -1, "x.y": 2}),
        ("vllm serve --port 8000 --dtype bfloat16 &\ntrl grpo --train.seed 3", {"train.seed": 3}),
        ("python ctrl.py --b 2 &\ntrl grpo --a 1", {"a": 1}),
        ("vllm serve --port 8000 &\npython x.py --train.seed 3", {"port": 8000, "train.seed": 3}),
        ("accelerate launch --num_processes 4 train.py --beta 0", {"num_processes": 4, "beta": 0}),
        ("python train.py --shuffle_dataset false 2>&1 | tee log", {"shuffle_dataset": False}),
        ('cd ~/trl\npython train.py --beta 0 "$@"', {"beta": 0}),
    ],
)  # fmt: skip
def test_a_line_and_its_settings(line: str, settings: dict[str, Any]) -> None:
    assert settings_of(line, "trl") == settings


def test_references_are_followed_and_the_environment_of_a_round_is_known() -> None:
    given = {"a": "${b.c}", "b.c": "x", "d": "pre/${b.c}", "e": "${oc.env:GAINCURATE_OUTPUT}/m"}
    more = {"f": "${oc.env:HOME}", "g": "${g}", "h": "$((2*({round}+1)))", "j": "$((2*n))"}
    settings = Settings(given | more, {"i": "${b.c}"})
    assert [settings[key] for key in "adehi"] == ["x", "pre/x", "{output}/m", "$((2*({round}+1)))", "x"]
    for key in "fgj":
        with pytest.raises(NotKnown, match="which is not known before it runs"):
            _ = settings[key]


def test_keys_and_words_are_compared_as_command_lines_do() -> None:
    settings = Settings({"rollout-batch-size": "1e3"}, {"save-hf": None})
    assert settings.number("rollout_batch_size") == settings.count("rollout_batch_size") == 1000
    for value in (2.5, -1, 10_000_001):
        with pytest.raises(NotKnown, match="by which nothing can be counted"):
            Settings({"batch": value}, {}).count("batch")
    assert settings.in_words("rollout_batch_size") == "rollout_batch_size is 1e3"
    assert settings.in_words("save_hf") == "save_hf is null by default"
    words = ["True", "false", "null", "none", "7", "a b", "[1, 'x', null]"]
    assert [scalar(word) for word in words] == [True, False, None, "none", 7, "a b", [1, "x", None]]
    assert flat({"a": {"b-c": [1, 2]}, "d": [], "e": {}}) == {"a.b_c": [1, 2], "d": [], "e": {}}
    assert shown([None, True, "x"]) == "[null,true,x]"

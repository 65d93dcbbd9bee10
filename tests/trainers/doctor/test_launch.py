from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.trainers.doctor.read import read_script


def settings_of(text: str, *markers: str) -> dict[str, Any]:
    return read_script(text, markers).given


def test_a_hydra_line() -> None:
    line = "python3 -m verl.trainer.main_ppo data.shuffle=True +data.extra=1 ++a.b=1e-6 ~data.gone c.d=null 'e=[x,2]'"
    assert settings_of(line, "main_ppo") == {
        "data.shuffle": True,
        "data.extra": 1,
        "a.b": 1e-6,
        "data.gone": None,
        "c.d": None,
        "e": ["x", 2],
    }


def test_flags_with_and_without_values() -> None:
    line = "trl grpo --shuffle_dataset False --lr=1e-5 --flag --names a b --no-cache --threshold -1 x.y=2"
    assert settings_of(line) == {
        "shuffle_dataset": False,
        "lr": 1e-5,
        "flag": True,
        "names": ["a", "b"],
        "cache": False,
        "threshold": -1,
        "x.y": 2,
    }


def test_a_script_as_people_write_them() -> None:
    script = """#!/bin/bash
# it's a comment with a quote
set -ex
N=8 ; export BATCH=$((N * (4 + 1)))
ARGS=(
   --prompt-data "/data/with space.jsonl"   # not this: --rollout-shuffle
   #--num-epoch 9
   --rollout-batch-size ${BATCH}
)
ray start --head --num-gpus ${N}
ray job submit --address="http://127.0.0.1:8265" \\
   --runtime-env-json="{\\"env_vars\\": {}}" \\
   -- python3 train.py --actor-num-nodes 1 "${ARGS[@]}" \\
   --save ${SAVE:-/ckpt} --load $LOAD
"""
    assert settings_of(script, "train.py") == {
        "actor_num_nodes": 1,
        "prompt_data": "/data/with space.jsonl",
        "rollout_batch_size": 40,
        "save": "/ckpt",
        "load": "$LOAD",
    }


def test_defaults_of_variables_may_nest_and_stay() -> None:
    script = """
: "${OUT:=/ckpt/${RUN:-first}}"
SIZE=8
FILES=${FILES:-${DATA:-$HOME/data}/train.parquet}
trl grpo --dataset_name "$FILES" --output_dir "${OUT}/${NAME:-${SIZE}}" --seed ${SEED:-${GAINCURATE_ROUND}}
"""
    assert settings_of(script, "trl") == {
        "dataset_name": "$HOME/data/train.parquet",
        "output_dir": "/ckpt/first/8",
        "seed": "{round}",
    }


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ('$(cd "$(dirname "$0")/.." && pwd)', "$(cd...)"),
        ("$(basename org/model)", "$(basename...)"),
        ("$(dirname $GAINCURATE_CHECKPOINT)", "$(...)"),
        ("$(dirname $3)", "$(...)"),
    ],
)
def test_what_a_command_prints_is_one_word_that_is_not_known(command: str, word: str) -> None:
    """Only a folder or a name that is the same in every round keeps the name of its command."""
    script = f"WHERE={command}\ntrl grpo --output_dir $WHERE/out --seed 3"
    assert settings_of(script, "trl") == {"output_dir": f"{word}/out", "seed": 3}


def test_a_round_of_the_driver() -> None:
    line = "gaincurate schedule run run -- python -m verl.trainer.main_ppo a={data} b=$((8*(round+1)))"
    assert settings_of(f"round=$2\n{line}", "main_ppo") == {"a": "{data}", "b": "$((8*({round}+1)))"}


def test_what_a_condition_or_another_file_sets_stays_unknown() -> None:
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
    assert read.notes == [
        "variables that `.`, `if`, `for` may set are not read: give the resolved configuration, or the flags after `--`"
    ]


def test_a_rounds_script() -> None:
    script = """
data=$1 round=$2 output="$5"
gaincurate export run --trainer trl --out "$output/rows" --shuffle_dataset true
trl grpo --dataset_name "$data" --output_dir "$output/x" --max_steps $((4 * (round + 1))) --seed $GAINCURATE_ROUND
"""
    assert settings_of(script, "trl") == {
        "dataset_name": "{data}",
        "output_dir": "{output}/x",
        "max_steps": "$((4*({round}+1)))",
        "seed": "{round}",
    }


@pytest.mark.parametrize("written", ["$3", "${3}", "${3:-Qwen/Qwen3-8B}", "${3:?the checkpoint}"])
def test_a_place_of_a_rounds_script_is_what_the_driver_gives(written: str) -> None:
    script = f'checkpoint="{written}"; model="{written}"\ntrl grpo --a "$checkpoint/x" --b "$model"'
    found = settings_of(script, "trl")
    assert found["a"] == "{checkpoint}/x"
    assert str(found["b"]).startswith(("$3", "${3"))


def test_only_the_trainers_own_command_is_read_where_there_is_one() -> None:
    script = "vllm serve --port 8000 --dtype bfloat16 &\npython -m openrlhf.cli.train_ppo_ray --train.seed 3"
    assert settings_of(script, "train_ppo_ray") == {"train.seed": 3}
    assert settings_of(script, "nothing_like_it") == {"port": 8000, "dtype": "bfloat16", "train.seed": 3}


@pytest.mark.parametrize("line", ["uv run rl @ rl.toml --max-steps 4", "uv run rl @rl.toml --max-steps 4"])
def test_files_that_a_line_names(line: str) -> None:
    found = read_script(line, ["rl"])
    assert (found.files, found.given) == (["rl.toml"], {"max_steps": 4})
    assert read_script("python run.py --config a.yaml x=1", []).files == ["a.yaml"]


def test_an_open_quote_is_no_line() -> None:
    with pytest.raises(ValueError, match="No closing quotation"):
        settings_of("python train.py --a 'b")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x" * 3_000_000, "it has more than 524,288 characters"),
        (
            "a=xxxxxxxxxx\n" + "a=$a$a\n" * 60 + "python x b=$a",
            "the variable a has more than 524,288 characters",
        ),
    ],
    ids=["long", "grows"],
)
def test_a_script_that_is_too_long_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        settings_of(text)


def test_a_sum_that_is_too_long_is_left_as_it_is() -> None:
    text = "1+" * 5000 + "1"
    assert settings_of(f"python x b=$(({text}))")["b"] == f"$(({text}))"


def test_a_default_within_defaults_is_read_to_a_depth() -> None:
    assert settings_of("python x b=${p:-${q:-${r:-3}}}")["b"] == 3
    assert settings_of("python x b=" + "${p:-" * 500 + "3" + "}" * 500)["b"].startswith("${p:-")


WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="$\x00\x01\x02\x03", exclude_categories=["Cs"]),
    min_size=1,
)


@given(st.dictionaries(st.from_regex(r"[a-z]{3,9}(\.[a-z]{1,9}){0,2}", fullmatch=True), WORDS, min_size=1))
def test_what_a_shell_would_hand_over_is_what_is_read(values: dict[str, str]) -> None:
    """Against the shell's own quoting: texts come back as they are, but for words that stand for values."""
    line = shlex.join(["python", "-m", "main_ppo", *(f"{key}={value}" for key, value in values.items())])
    found = settings_of(line, "main_ppo")
    assert set(found) == set(values)
    for key, value in values.items():
        if isinstance(found[key], str):
            assert found[key] == value or found[key] == value.strip()


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("accelerate launch --num_processes 4 train.py --beta 0", {"num_processes": 4, "beta": 0}),
        ("python train.py --shuffle_dataset false 2>&1 | tee log", {"shuffle_dataset": False}),
        ("python train.py --beta 0 > log.txt 2>&1 &", {"beta": 0}),
        ('python train.py --beta 0 "$@"', {"beta": 0}),
        ("cd ~/trl\npython train.py --beta 0", {"beta": 0}),
    ],
)
def test_what_a_shell_adds_to_a_command_is_no_setting(line: str, settings: dict[str, Any]) -> None:
    assert settings_of(line, "trl") == settings

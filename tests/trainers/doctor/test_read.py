from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gaincurate.errors import InputError
from gaincurate.trainers.doctor.read import read_settings
from gaincurate.trainers.doctor.settings import NotKnown, Settings, flat, scalar, shown

YAML = "data:\n  shuffle: true\n  files: [a, b]\ntrain:\n  - {dataset_name: x}\n"
TOML = 'max_steps = 4\n[[orchestrator.train.source]]\nname = "a"\n'


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_three_formats_say_the_same(tmp_path: Path) -> None:
    wanted = {"data.shuffle": True, "data.files": ["a", "b"], "train.0.dataset_name": "x"}
    tree = {"data": {"shuffle": True, "files": ["a", "b"]}, "train": [{"dataset_name": "x"}]}
    toml = '[data]\nshuffle = true\nfiles = ["a", "b"]\n[[train]]\ndataset_name = "x"\n'
    for name, text in (("c.yaml", YAML), ("c.json", json.dumps(tree)), ("c.toml", toml)):
        assert read_settings([written(tmp_path, name, text)], []).given == wanted
        assert read_settings([written(tmp_path, f"{name}.txt", text)], []).given == wanted


def test_later_ones_win(tmp_path: Path) -> None:
    base = written(tmp_path, "base.yaml", "a: 1\nb: 2\n")
    line = written(tmp_path, "launch.sh", "python -m main_ppo b=3 c=4")
    found = read_settings([base, line], ["main_ppo"])
    assert found.given == {"a": 1, "b": 3, "c": 4}
    assert found.launched
    flags = read_settings([base, line], ["main_ppo"], command=["b=5", "--e", "1", "2"])
    assert flags.given == {"a": 1, "b": 5, "c": 4, "e": [1, 2]}


def test_a_file_that_a_launch_line_names_comes_before_the_line(tmp_path: Path) -> None:
    written(tmp_path, "rl.toml", TOML)
    line = written(tmp_path, "launch.sh", "uv run rl @ rl.toml --max-steps 8")
    found = read_settings([line], ["rl"])
    assert found.given == {"max_steps": 8, "orchestrator.train.source.0.name": "a"}
    assert not found.notes
    missing = written(tmp_path, "other.sh", "uv run rl @ gone.toml --max-steps 8")
    assert read_settings([missing], ["rl"]).notes == [
        "the launch line names gone.toml, which is not here: what it sets is taken as the trainer's default; give it "
        "with one more --config before this one"
    ]


@pytest.mark.parametrize("begin", ["<<EOF", "<<-'EOF'", '<< "EOF"', "<<EOF > system.txt"])
def test_here_documents_are_left_out(tmp_path: Path, begin: str) -> None:
    script = f"cat {begin}\nDon't think.\n\tEOF\nN=$((1<<2))\npython -m main_ppo a=1 b=$N\n"
    assert read_settings([written(tmp_path, "launch.sh", script)], ["main_ppo"]).given["a"] == 1


def test_hydras_own_way_to_name_a_file(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    written(tmp_path / "conf", "mine.yaml", "data:\n  shuffle: false\n  train_batch_size: 7\n")
    line = f"python -m main_ppo --config-path {tmp_path}/conf --config-name mine data.train_batch_size=8"
    found = read_settings([written(tmp_path, "launch.sh", line)], ["main_ppo"])
    assert found.given == {"data.shuffle": False, "data.train_batch_size": 8}
    other = written(tmp_path, "other.sh", "python -m main_ppo --config-name=gone a=1")
    assert "names ./gone.yaml, which is not here" in read_settings([other], ["main_ppo"]).notes[0]


def test_a_file_begins_with_those_that_its_defaults_name(tmp_path: Path) -> None:
    """As NeMo-RL merges them: parents from beside the file, in their order, and the file over them."""
    (tmp_path / "more").mkdir()
    written(
        tmp_path, "root.yaml", "a: {x: 1, y: 1, z: 1}\nlist: [1, 2]\ndata: {train: {name: old, part: 0.1}}\n"
    )
    written(tmp_path, "base.yaml", "defaults: root.yaml\na: {y: 2}\n")
    written(tmp_path, "other.yaml", "a: {y: 3, z: 3}\nlist: [3]\n")
    own = (
        "defaults: [../base.yaml, ../other.yaml]\na: {z: 4}\ndata: {_override_: true, train: [{name: new}]}\n"
    )
    child = written(tmp_path / "more", "child.yaml", own)
    found = read_settings([child], [], inherits=True)
    assert found.given == {"a.x": 1, "a.y": 3, "a.z": 4, "list": [3], "data.train.0.name": "new"}
    assert found.sections == {"a", "list", "data"}
    assert not found.notes
    assert read_settings([child], []).given["defaults"] == ["../base.yaml", "../other.yaml"]


def test_a_file_that_defaults_name_and_is_not_here_is_said(tmp_path: Path) -> None:
    child = written(tmp_path, "child.yaml", "defaults: gone.yaml\na: 1\n")
    found = read_settings([child], [], inherits=True)
    assert found.given == {"a": 1}
    assert not found.sections
    assert "name gone.yaml, which is not here" in found.notes[0]


def test_defaults_that_lead_back_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "a.yaml", "defaults: b.yaml\n")
    written(tmp_path, "b.yaml", "defaults: a.yaml\n")
    with pytest.raises(InputError, match="its `defaults` lead back to"):
        read_settings([str(tmp_path / "a.yaml")], [], inherits=True)


def test_defaults_are_names_of_files(tmp_path: Path) -> None:
    child = written(tmp_path, "child.yaml", "defaults: 5\na: 1\n")
    with pytest.raises(InputError, match="its `defaults` are 5, not names of files.$"):
        read_settings([child], [], inherits=True)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"shuffle_dataset: false\n")))
    assert read_settings(["-"], []).given == {"shuffle_dataset": False}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("gone.yaml", None, "there is no such file."),
        (
            "a.json",
            "{",
            "this is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1).",
        ),
        ("a.toml", "a = \n", "this is no TOML: Invalid value (at line 1, column 5)."),
        ("a.yaml", "- 1\n- 2\n", "this is no configuration: expected keys and values, found list."),
        ("a.yaml", "", "this is no configuration: expected keys and values, found nothing."),
        ("a.json", "{}", "there is no setting in it."),
        ("a.sh", "echo 'hello", "the script cannot be read: no closing quotation."),
        (
            "a.sh",
            "echo hello",
            "there is no setting in it; expected YAML, JSON or TOML, or a command with key=value or --key value. Loops, "
            "functions and `sh -c` are not read: give the resolved configuration, or the flags after `--`.",
        ),
    ],
)
def test_bad_files_get_a_sentence(tmp_path: Path, name: str, text: str | None, sentence: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_settings([str(path)], [])
    assert str(caught.value) == f"--config {path}: {sentence}"


def test_yaml_that_is_none_says_where(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: [1,\nb: }")
    with pytest.raises(InputError, match=r"this is no YAML: while parsing .* line 2, column"):
        read_settings([str(path)], [])


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError) as caught:
        read_settings([str(path)], [])
    assert str(caught.value) == f"--config {path}: this is no text in UTF-8."


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it cannot be read: is a directory"):
        read_settings([str(tmp_path)], [])


def test_references_are_followed_and_the_environment_of_a_round_is_known() -> None:
    given = {
        "a": "${b.c}",
        "b.c": "x",
        "d": "pre/${b.c}",
        "e": "${oc.env:GAINCURATE_OUTPUT}/m",
        "f": "${oc.env:HOME}",
    }
    settings = Settings(given | {"g": "${g}", "h": "$((2*({round}+1)))"}, {"i": "${b.c}"})
    assert [settings[key] for key in "adeh"] == ["x", "pre/x", "{output}/m", "$((2*({round}+1)))"]
    assert settings["i"] == "x"
    assert Settings({"a": "${b}-${b}", "b": "${c}", "c": 3}, {})["a"] == "3-3"
    for key in "fg":
        with pytest.raises(NotKnown, match="which is not known before it runs"):
            _ = settings[key]


def test_keys_are_compared_as_command_lines_do() -> None:
    settings = Settings({"rollout-batch-size": 4}, {"save-hf": None})
    assert settings["rollout_batch_size"] == 4
    assert settings["save_hf"] is None
    assert settings.told("rollout_batch_size") == "rollout_batch_size is 4"
    assert settings.told("save_hf") == "save_hf is null by default"


@pytest.mark.parametrize(
    ("value", "number"), [("1e3", 1000.0), (3, 3), (True, None), ("x", None), (None, None)]
)
def test_numbers_are_numbers_in_quotes_too(value: object, number: float | None) -> None:
    assert Settings({"a": value}, {}).number("a") == number


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("True", True),
        ("false", False),
        ("null", None),
        ("none", "none"),
        ("7", 7),
        ("1e-6", 1e-6),
        ("a b", "a b"),
        ("[1, 'x', null]", [1, "x", None]),
        ("[" * 5000 + "]" * 5000, ["[" * 4999 + "]" * 4999]),
    ],
    ids=lambda value: f"{value!s:.20}",
)
def test_words_are_values(word: str, value: object) -> None:
    assert scalar(word) == value
    assert type(scalar(word)) is type(value)


def test_trees_are_flat_and_lists_of_values_stay() -> None:
    assert flat({"a": {"b-c": [1, 2]}, "d": [], "e": {}}) == {"a.b_c": [1, 2], "d": [], "e": {}}
    assert shown([None, True, "x"]) == "[null,true,x]"

from __future__ import annotations

import json
from pathlib import Path

from command import read_options
from gaincurate.schedule.rescore import options_of


def test_options_say_what_the_identity_says(tmp_path: Path) -> None:
    shots = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    segmentation = {"system": "-Be brief.", "system_override": True, "shots": shots, "max_length": 99}
    segmentation |= {"template_kwargs": {"enable_thinking": False}, "overlong": "truncate"}
    identity = {
        "source": {"prompt_column": "extra_info.q"},
        "segmentation": segmentation,
        "site": "final_norm",
    }
    identity |= {"layer": None, "inter_weight": 8.0, "dtype": "bfloat16"}
    options = options_of(identity, tmp_path)
    assert options == {
        "id_column": "gc_id", "prompt_column": "extra_info.q", "system": "-Be brief.", "system_override": True,
        "shots": shots, "template_kwargs": {"enable_thinking": False}, "max_length": 99,
        "on_overlong": "truncate", "site": "final_norm", "inter_weight": 8.0, "dtype": "bfloat16",
    }  # fmt: skip
    path = tmp_path / "options.json"
    path.write_text(json.dumps(options))
    paths = ["data.jsonl", "--model", "demo", "--out", "set"]
    read = read_options("score", *paths, "--config", path)
    assert {name: read[name] for name in options} == options


def test_a_system_message_that_would_name_a_file_is_read_from_one(tmp_path: Path) -> None:
    identity = {"source": {"prompt_column": "q"}, "segmentation": {"system": "@home"}, "site": "mlp_input"}
    options = options_of({**identity, "dtype": "float32"}, tmp_path)
    assert options["system"] == f"@{tmp_path / 'system.txt'}"
    assert (tmp_path / "system.txt").read_text() == "@home\n"

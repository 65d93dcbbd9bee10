from __future__ import annotations

from pathlib import Path

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
    assert options_of(identity, tmp_path) == [
        "--id-column", "gc_id", "--prompt-column", "extra_info.q", "--system=-Be brief.", "--system-override",
        "--shots", str(tmp_path / "shots.json"), "--template-kwargs", '{"enable_thinking": false}',
        "--max-length", "99", "--on-overlong", "truncate", "--site", "final_norm", "--inter-weight", "8.0",
        "--dtype", "bfloat16",
    ]  # fmt: skip

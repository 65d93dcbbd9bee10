"""The arguments of the chat template in each trainer's settings, against sets that were scored with and without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import exports
import runs
from gaincurate.trainers.doctor.examine import Report, examine

ROWS = [{"question": f"Is {k} odd?", "answer": str(k % 2)} for k in range(4)]
SCORED: dict[str, dict[str, Any]] = {
    "plain": {},
    "no-thinking": {"template_kwargs": {"enable_thinking": False}},
}


@pytest.fixture(scope="module")
def run_over(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run over a set that was scored with and without arguments."""
    folder = tmp_path_factory.mktemp("rendering")
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            exports.make_set(folder / name / "set", ROWS, segmentation=SCORED[name])
            made[name] = runs.begin(folder / name, budget=4, strategy="file-order").folder
        return made[name]

    return of


LINES = {
    "verl": "python -m verl.trainer.main_ppo data.train_files={data}",
    "slime": "python3 train.py --prompt-data {output}/data.jsonl",
    "trl": "trl grpo --dataset_name {output}",
    "openrlhf": "python3 -m openrlhf.cli.train_ppo_ray --data.prompt_dataset {output}/data.jsonl",
    "nemo-rl": "uv run run_grpo.py grpo.max_num_epochs=1",
    "skyrl": "uv run -m skyrl.train.entrypoints.main_base data.train_data=['{data}']",
    "trinity": "trinity run mode=both",
    "areal": "python3 gsm8k_rl.py total_train_epochs=1",
    "ms-swift": "swift rlhf --rlhf_type grpo --dataset {output}/data.jsonl",
    "prime-rl": "uv run rl --max-steps 4",
}


def look(tmp_path: Path, trainer: str, more: str, folder: Path) -> Report:
    path = tmp_path / "round.sh"
    path.write_text(f"{LINES[trainer]} {more}\n")
    return examine(trainer, [str(path)], "segment", folder)


FALSE, TRUE = '{"enable_thinking": false}', '{"enable_thinking": true}'
KWARGS = "data.apply_chat_template_kwargs"
MULTI = "actor_rollout_ref.rollout.multi_turn"
CASES: list[tuple[str, str, str, bool]] = [
    # trainer, set, more of its launch line, whether the arguments differ
    ("verl", "plain", "", False),
    ("verl", "plain", f"+{KWARGS}.enable_thinking=False", True),
    ("verl", "no-thinking", f"+{KWARGS}.enable_thinking=False", False),
    ("verl", "no-thinking", f"++{KWARGS}={{enable_thinking:false}}", False),
    ("verl", "no-thinking", "", True),
    ("verl", "no-thinking", f"+{KWARGS}.enable_thinking=$THINK", False),
    ("slime", "plain", f"--apply-chat-template-kwargs '{FALSE}'", True),
    ("slime", "no-thinking", f"--apply-chat-template-kwargs '{FALSE}'", False),
    ("trl", "plain", f"--chat_template_kwargs '{FALSE}'", True),
    ("trl", "no-thinking", f"--chat_template_kwargs '{FALSE}'", False),
    ("openrlhf", "plain", "", False),
    ("openrlhf", "no-thinking", "", True),
    ("nemo-rl", "no-thinking", "++policy.tokenizer.chat_template_kwargs.enable_thinking=false", False),
    ("nemo-rl", "plain", "++policy.tokenizer.chat_template_kwargs.enable_thinking=false", True),
    ("nemo-rl", "plain", "++policy.tokenizer.chat_template=default", False),
    ("skyrl", "no-thinking", "generator.chat_template_kwargs.enable_thinking=false", False),
    ("trinity", "plain", "model.enable_thinking=false", True),
    ("trinity", "no-thinking", "model.enable_thinking=false", False),
    ("areal", "no-thinking", "", False),
    ("prime-rl", "plain", "--orchestrator.train.sampling.extra_body.chat-template-kwargs.enable-thinking false", True),
]  # fmt: skip
NAME = "template-arguments"


@pytest.mark.parametrize(("trainer", "name", "more", "finding"), CASES)
def test_the_doctor_compares_what_the_trainer_renders_and_its_fix_helps(
    tmp_path: Path, run_over: Any, trainer: str, name: str, more: str, finding: bool
) -> None:
    report = look(tmp_path, trainer, more, run_over(name))
    findings = [one for one in report.findings if one.name == NAME]
    assert len(findings) == finding
    for one in findings:
        assert one.fix or (one.advice and trainer == "openrlhf")
        fix = tmp_path / "fix.json"
        fix.write_text(json.dumps({**one.fix, "seed": 1}))
        again = examine(trainer, [str(tmp_path / "round.sh"), str(fix)], "segment", run_over(name))
        assert not one.fix or NAME not in {other.name for other in again.findings}


def test_lengths_are_not_compared_where_the_trainer_adds_text(tmp_path: Path, run_over: Any) -> None:
    for more, compared in (("", True), (f"{MULTI}.tool_config_path=/opt/tools.yaml", False)):
        report = look(tmp_path, "verl", f"data.max_prompt_length=4 {more}", run_over("plain"))
        assert ("too-long" in {one.name for one in report.findings}) == compared


def test_arguments_in_a_file_and_both_values_in_the_finding(tmp_path: Path, run_over: Any) -> None:
    path = tmp_path / "trl.yaml"
    path.write_text("chat_template_kwargs: {enable_thinking: true}\nper_device_train_batch_size: 16\n")
    report = examine("trl", [str(path)], "segment", run_over("no-thinking"))
    found = next(one for one in report.findings if one.name == NAME)
    assert f"the chat template {TRUE}, but prompts were scored with {FALSE}" in found.title
    assert found.source == str(path)

"""What each trainer renders beside messages, against sets that were scored with and without it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import runs
import tiny
from command import run
from gaincurate.trainers.doctor.examine import Report, examine

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}<think></think>{% endif %}"
    "{% endif %}"
)


def tool(name: str, *parameters: str) -> dict[str, Any]:
    properties = {parameter: {"type": "string"} for parameter in parameters}
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


ALIKE = [{"prompt": asked(f"Is {k} odd?"), "tools": [tool("odd", "n")], "answer": "1"} for k in range(4)]
PLAIN = [{"prompt": row["prompt"], "answer": "1"} for row in ALIKE]
UNLIKE = [{**row, "tools": [tool("f", name)]} for row, name in zip(ALIKE, "abcd", strict=True)]
CALLS = [
    {"prompt": [*asked("Look it up."),
                {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {name: 1}}}]},
                *asked(f"And {name}?")],
     "answer": "1"}
    for name in "abcd"
]  # fmt: skip
SETS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "plain": (PLAIN, []),
    "no-thinking": (PLAIN, ["--template-kwargs", '{"enable_thinking": false}']),
    "tools": (ALIKE, []),
    "unlike": (UNLIKE, []),
    "none": (ALIKE, ["--tools-column", "none"]),
    "calls": (CALLS, []),
    "pictures": ([{**row, "images": ["a.png"], "tools": None} for row in ALIKE], []),
}


@pytest.fixture(scope="module")
def run_over(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run over each of the sets, scored by a tiny model whose template renders tools."""
    folder = tmp_path_factory.mktemp("rendering")
    model = tiny.save_model(folder / "model", template=TEMPLATE)
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            rows, options = SETS[name]
            data, place = tiny.write_jsonl(folder / f"{name}.jsonl", rows), folder / name
            done = run("score", data, "--model", model, "--out", place / "set", *options)
            assert done.exit_code == 0, done.stderr
            made[name] = runs.begin(place, budget=4, strategy="file-order", model=str(model)).folder
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
ALL_SEEN = "tokens: 4 prompts of round 0 are token for token as they were scored"
TOLD: list[tuple[str, str, str, str | None, str]] = [
    # trainer, set, more of its launch line, the finding, the note on tokens
    ("verl", "plain", "", None, ALL_SEEN),
    ("verl", "plain", f"+{KWARGS}.enable_thinking=False", "template-arguments", "not compared: the trainer renders other prompts"),
    ("verl", "no-thinking", f"+{KWARGS}.enable_thinking=False", None, ALL_SEEN),
    ("verl", "no-thinking", f"++{KWARGS}={{enable_thinking:false}}", None, ALL_SEEN),
    ("verl", "no-thinking", "", "template-arguments", "not compared"),
    ("verl", "no-thinking", f"+{KWARGS}.enable_thinking=$THINK", None, "not compared: data.apply_chat_template_kwargs"),
    ("verl", "plain", f"{MULTI}.tool_config_path=/opt/tools.yaml", None, f"not compared: {MULTI}.tool_config_path is /opt/tools.yaml, which adds"),
    ("verl", "tools", f"{MULTI}.tool_config_path=$TOOLS", None, f"not compared: {MULTI}.tool_config_path is $TOOLS"),
    ("verl", "tools", "", "tools", "not compared"),
    ("verl", "none", "", None, ALL_SEEN),
    ("verl", "calls", "", "nulls", "differs"),
    ("verl", "pictures", "", None, "not compared: the trainer adds the column 'images' to the prompts"),
    ("slime", "tools", "--tool-key tools", None, ALL_SEEN),
    ("slime", "tools", "", None, ALL_SEEN),
    ("slime", "tools", "--tool-key functions", "tools", "not compared"),
    ("slime", "none", "", "tools", "not compared"),
    ("slime", "unlike", "", None, ALL_SEEN),
    ("slime", "unlike", "--prompt-data {data}", "nulls", "differs"),
    ("slime", "calls", "", None, ALL_SEEN),
    ("slime", "plain", f"--apply-chat-template-kwargs '{FALSE}'", "template-arguments", "not compared"),
    ("slime", "no-thinking", f"--apply-chat-template-kwargs '{FALSE}'", None, ALL_SEEN),
    ("slime", "plain", "--multimodal-keys '{\"image\": \"images\"}'", None, "not compared: multimodal_keys is"),
    ("trl", "plain", f"--chat_template_kwargs '{FALSE}'", "template-arguments", "not compared"),
    ("trl", "no-thinking", f"--chat_template_kwargs '{FALSE}'", None, ALL_SEEN),
    ("trl", "calls", "", "nulls", "differs"),
    ("openrlhf", "plain", "", None, ALL_SEEN),
    ("openrlhf", "no-thinking", "", "template-arguments", "not compared"),
    ("nemo-rl", "no-thinking", "++policy.tokenizer.chat_template_kwargs.enable_thinking=false", None, ALL_SEEN),
    ("nemo-rl", "plain", "++policy.tokenizer.chat_template_kwargs.enable_thinking=false", "template-arguments", "not"),
    ("nemo-rl", "plain", "++policy.tokenizer.chat_template=default", None, ALL_SEEN),
    ("nemo-rl", "plain", "++policy.tokenizer.chat_template=a.jinja", None, "not compared: policy.tokenizer.chat_template is a.jinja"),
    ("skyrl", "no-thinking", "generator.chat_template_kwargs.enable_thinking=false", None, ALL_SEEN),
    ("trinity", "plain", "model.enable_thinking=false", "template-arguments", "not compared: the workflow renders"),
    ("trinity", "no-thinking", "model.enable_thinking=false", None, "not compared: the workflow renders the prompts"),
    ("trinity", "tools", "", None, "not compared: the workflow renders the prompts"),
    ("areal", "no-thinking", "", None, "not compared: the workflow of the training script renders the prompts"),
    ("prime-rl", "tools", "", None, "not compared: the taskset of the environment renders the prompts"),
    ("prime-rl", "plain", "--orchestrator.train.sampling.extra_body.chat-template-kwargs.enable-thinking false", "template-arguments", "not compared"),
]  # fmt: skip
NAMES = {"template-arguments", "tools", "nulls", "tokens"}


@pytest.mark.parametrize(("trainer", "name", "more", "finding", "note"), TOLD)
def test_the_doctor_compares_what_the_trainer_renders_and_its_fix_helps(
    tmp_path: Path, run_over: Any, trainer: str, name: str, more: str, finding: str | None, note: str
) -> None:
    report = look(tmp_path, trainer, more, run_over(name))
    findings = [one for one in report.findings if one.name in NAMES]
    assert [one.name for one in findings] == ([finding] if finding else [])
    assert note in report.notes[-1]
    assert ("token for token" in report.notes[-1]) == (note == ALL_SEEN)
    for one in findings:
        assert one.fix or (one.advice and (finding != "template-arguments" or trainer == "openrlhf"))
        fix = tmp_path / "fix.json"
        fix.write_text(json.dumps({**one.fix, "seed": 1}))
        again = examine(trainer, [str(tmp_path / "round.sh"), str(fix)], "segment", run_over(name))
        assert not one.fix or finding not in {other.name for other in again.findings}


def test_a_run_without_a_round_and_rows_without_ids_are_not_compared(tmp_path: Path, run_over: Any) -> None:
    folder = shutil.copytree(run_over("plain"), tmp_path / "run")
    (tmp_path / "set").symlink_to(run_over("plain").parent / "set")
    data = folder / "rounds/00000/data.parquet"
    table = pq.read_table(data)
    without = table.drop_columns("gc_id")
    for other in (without, without.append_column("gc_id", pa.array([[1]] * len(table)))):
        pq.write_table(other, data)
        assert "has other prompts than the plan" in look(tmp_path, "verl", "", folder).notes[-1]
    shutil.rmtree(folder / "rounds/00000")
    assert look(tmp_path, "verl", "", folder).notes[-1] == "tokens: not compared: the run has no round yet"


def test_lengths_are_not_compared_where_the_trainer_adds_text(tmp_path: Path, run_over: Any) -> None:
    for more, compared in (("", True), (f"{MULTI}.tool_config_path=/opt/tools.yaml", False)):
        report = look(tmp_path, "verl", f"data.max_prompt_length=4 {more}", run_over("plain"))
        assert ("too-long" in {one.name for one in report.findings}) == compared


def test_arguments_in_a_file_and_both_values_in_the_finding(tmp_path: Path, run_over: Any) -> None:
    path = tmp_path / "trl.yaml"
    path.write_text("chat_template_kwargs: {enable_thinking: true}\nper_device_train_batch_size: 16\n")
    report = examine("trl", [str(path)], "segment", run_over("no-thinking"))
    found = next(one for one in report.findings if one.name == "template-arguments")
    assert f"the chat template {TRUE}, but prompts were scored with {FALSE}" in found.title
    assert found.source == str(path)

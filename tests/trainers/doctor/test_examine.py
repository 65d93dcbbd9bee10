"""The doctor over scripts, files and runs, and what it compares of the prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import runs
import sets
import tiny
from command import run
from gaincurate.errors import InputError
from gaincurate.trainers.doctor.examine import Report, examine, run_context
from gaincurate.trainers.doctor.findings import Mode
from gaincurate.trainers.names import with_part

LAUNCH = """
python -m verl.trainer.main_ppo data.train_files={data} data.train_batch_size=8 data.max_prompt_length=80 \\
    data.shuffle=False data.filter_overlong_prompts=True trainer.total_epochs=1 trainer.save_freq=1000000 \\
    trainer.default_local_dir={output} trainer.val_before_train=False reward.custom_reward_function.path=reward.py \\
    actor_rollout_ref.actor.checkpoint.save_contents=[model,hf_model]
"""


GOOD_NEMO_RL = """
data:
  shuffle: false
  max_input_seq_length: 4096
  train: {dataset_name: ResponseDataset, data_path: "${oc.env:GAINCURATE_OUTPUT}/data.jsonl"}
  default: {prompt_file: null, env_name: mine}
grpo: {num_prompts_per_step: 32, max_num_epochs: 1, async_grpo: {enabled: false}}
loss_fn: {reference_policy_kl_penalty: 0}
checkpointing:
  {enabled: true, checkpoint_dir: "${oc.env:GAINCURATE_OUTPUT}", model_save_format: safetensors, save_consolidated: true}
policy: {model_name: "${oc.env:GAINCURATE_CHECKPOINT}", dtensor_cfg: {enabled: true}}
"""


def found_in(trainer: str, path: Path, text: str, mode: Mode = "segment") -> set[str]:
    path.write_text(text)
    return {finding.name for finding in examine(trainer, [str(path)], mode).findings}


def test_a_file_with_a_good_base_is_good_and_what_it_changes_is_seen(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD_NEMO_RL)
    child = tmp_path / "child.yaml"
    assert not found_in("nemo-rl", child, "defaults: base.yaml\ngrpo: {num_generations_per_prompt: 8}\n")
    changed = "grpo: {use_dynamic_sampling: true}\ndata: {default: {prompt_file: cot.txt}}\n"
    found = found_in("nemo-rl", child, f"defaults: base.yaml\n{changed}")
    assert found == {"dynamic-sampling", "prompt-file"}
    found = found_in("nemo-rl", child, "defaults: gone.yaml\ngrpo: {max_num_epochs: 1}\n")
    assert {"split", "weights"} <= found


GRPO = "--output_dir {output} --num_train_epochs 1 --shuffle_dataset false --lr_scheduler_type constant"
PPO = "python3 -m openrlhf.cli.train_ppo_ray --data.max_samples"
UNSAVED = LAUNCH.replace(",hf_model", "")
MEGATRON = "uv run run_grpo.py policy.megatron_cfg.enabled=true\n"
OPERATORS = "trinity run data_processor.experience_pipeline.operators"
FULLY = "python -m verl.experimental.fully_async_policy.fully_async_main data.shuffle=False"
PASS_RATES = f"{OPERATORS}.1.name=pass_rate_calculator"
CASES: list[tuple[str, Mode, str, str, bool]] = [
    # trainer, mode, line, finding, whether it is there
    ("trl", "segment", f"trl grpo {GRPO} --dataset_name {{output}}", "outcomes", True),
    ("trl", "segment", f"trl grpo {GRPO} --reward_funcs accuracy_reward", "outcomes", True),
    ("trl", "segment", f"trl grpo {GRPO} --reward_funcs accuracy_reward reward.reward", "outcomes", False),
    ("trl", "segment", f"accelerate launch train.py {GRPO}", "outcomes", False),
    ("trl", "segment", f"accelerate launch train.py {GRPO} --reward_funcs accuracy_reward", "outcomes", True),
    ("openrlhf", "segment", f"{PPO} 20000", "subset", False),
    ("openrlhf", "segment", f"{PPO} 2000", "subset", True),
    ("openrlhf", "export", f"{PPO} 20000", "subset", True),
    ("verl", "segment", UNSAVED, "weights", True),
    ("verl", "segment", f"{UNSAVED}python -m verl.model_merger merge --local_dir $5/actor\n", "weights", False),
    ("nemo-rl", "segment", MEGATRON, "weights", True),
    ("nemo-rl", "segment", f"{MEGATRON}uv run examples/converters/convert_megatron_to_hf.py\n", "weights", False),
    ("trinity", "live", f"{PASS_RATES.replace('.1.', '.0.')} a.b=c", "feedback", False),
    ("trinity", "live", f"{OPERATORS}.0.name=mask_response_truncated {PASS_RATES.partition(' run ')[2]}", "feedback", False),
    ("trinity", "live", f"{OPERATORS}.0.name=dapo_dynamic_sampling", "feedback", True),
    ("verl", "live", FULLY, "async", True),
    ("verl", "segment", FULLY, "async", True),
    ("verl", "segment", "python -m verl.trainer.main_ppo async_training.staleness_threshold=0.1 data.shuffle=False", "async", True),
    ("verl", "segment", "python -m verl.experimental.one_step_off_policy.main_ppo data.shuffle=False", "async", True),
    ("verl", "segment", "python -m verl.trainer.main_ppo data.shuffle=False", "async", False),
]  # fmt: skip


def test_what_the_script_around_the_settings_says(tmp_path: Path) -> None:
    for trainer, mode, line, finding, there in CASES:
        assert (finding in found_in(trainer, tmp_path / "round.sh", line, mode)) == there, line


@pytest.fixture
def launch(tmp_path: Path) -> Path:
    path = tmp_path / "launch.sh"
    path.write_text(LAUNCH)
    return path


def test_numbers_of_a_run(tmp_path: Path) -> None:
    opened = runs.begin(tmp_path, budget=12, rounds=3)
    context = run_context(opened, "segment")
    columns = (opened.scored.column(name).to_pylist() for name in ("gc_id", "gc_prompt_tokens"))
    lengths = dict(zip(*columns, strict=True))
    assert (context.budget, context.rounds, context.longest) == (12, 3, max(lengths.values()))
    assert context.longer_than is not None
    assert set(context.longer_than(40)) == {one for one, length in lengths.items() if length > 40}
    data = opened.data(0)
    assert context.columns == frozenset(pq.read_table(data).column_names)
    data.unlink()
    assert run_context(opened, "segment").columns is None
    (tmp_path / "bare").mkdir()
    bare = run_context(runs.begin(tmp_path / "bare", bare=True), "segment")
    assert (bare.longest, bare.longer_than) == (None, None)


def test_a_run_is_compared_with_the_settings(tmp_path: Path, launch: Path) -> None:
    opened = runs.begin(tmp_path, budget=12)
    report = examine("verl", [str(launch)], "segment", opened.folder)
    found = {finding.name: finding for finding in report.findings}
    assert set(found) == {"tail", "too-long", "view"}
    missing = "have no data_source, reward_model, extra_info, which the trainer reads"
    assert found["view"].title.endswith(missing)
    assert f"gaincurate export {opened.folder.resolve()} --trainer verl" in found["view"].advice
    longest = max(opened.scored.column("gc_prompt_tokens").to_pylist())
    assert found["too-long"].fix == {"data.max_prompt_length": longest}
    mini = "actor_rollout_ref.actor.ppo_mini_batch_size"
    assert found["tail"].fix == {"data.train_batch_size": 6, mini: 6}


def test_settings_of_which_none_is_known_are_refused_with_the_version(tmp_path: Path) -> None:
    path = tmp_path / "a.sh"
    for trainer, line, version in (
        ("verl", "main_ppo learning=3", "verl 0.9.1"),
        ("openrlhf", "train_ppo_ray --promptdata a", "openrlhf 0.11.2"),
    ):
        path.write_text(line)
        with pytest.raises(InputError, match=f"none of its settings .* the names are those of {version}"):
            examine(trainer, [str(path)])
    sentence = "--mode live: openrlhf has no live adapter"
    with pytest.raises(InputError, match=sentence):
        examine("openrlhf", [str(path)], "live")


def test_a_setting_that_moved_into_a_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.sh"
    path.write_text("main_ppo data.shuffle=false custom_reward_function.path=b")
    assert examine("verl", [str(path)]).notes[0] == (
        "not settings of verl 0.9.1 that are read here: custom_reward_function.path (did you mean "
        "reward.custom_reward_function.path?)"
    )


def counted(tmp_path: Path, off_by: int = 0) -> Path:
    """A folder with a model and a set with its counts of tokens, but for `off_by` more in row 7."""
    rows, tokenizer = [], tiny.tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    for i in range(12):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"question {i}"}], tokenize=False, add_generation_prompt=True
        )
        count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        rows.append(sets.scored_row(f"id{i}", f"question {i}", tokens=count - 2 + (off_by if i == 7 else 0)))
    sets.make_set(tmp_path / "set", [rows])
    return tmp_path / "model"


def test_tokens_are_those_of_the_models_own_template(tmp_path: Path, launch: Path) -> None:
    opened = runs.begin(tmp_path, budget=8, strategy="file-order", model=str(counted(tmp_path)))
    report = examine("verl", [str(launch)], "segment", opened.folder)
    assert report.notes[-1] == "tokens: 8 prompts of round 0 are token for token as they were scored"
    # The prompt of another row, which has as many tokens.
    path, table = opened.data(0), pq.read_table(opened.data(0))
    prompts = table.column("prompt").to_pylist()
    place = table.schema.get_field_index("prompt")
    prompts[5], prompts[6] = prompts[6], prompts[5]
    pq.write_table(table.set_column(place, "prompt", pa.array(prompts, table.schema.field(place).type)), path)
    report = examine("verl", [str(launch)], "segment", opened.folder)
    finding = next(one for one in report.findings if one.name == "tokens")
    assert finding.severity == "wrong"
    assert "the prompt of id5 has other tokens than when it was scored" in finding.title
    assert report.notes[-1] == "tokens: id5 differs"
    place = table.schema.get_field_index("gc_id")
    pq.write_table(table.set_column(place, "gc_id", pa.array([f"other{k}" for k in range(8)])), path)
    report = examine("verl", [str(launch)], "segment", opened.folder)
    assert report.notes[-1].endswith("has other prompts than the plan")


def test_a_prompt_of_another_length_than_was_scored(tmp_path: Path, launch: Path) -> None:
    opened = runs.begin(tmp_path, budget=8, strategy="file-order", model=str(counted(tmp_path, off_by=1)))
    report = examine("verl", [str(launch)], "segment", opened.folder)
    assert (report.notes[-1], report.ok) == ("tokens: id7 differs", False)
    assert any("the prompt of id7 is " in one.title for one in report.findings)


def test_tokens_that_cannot_be_compared_say_why(tmp_path: Path, launch: Path) -> None:
    tiny.tokenizer("{{ 1 / 0 }}").save_pretrained(tmp_path / "model")
    for name, options, why in (
        ("a", {"model": "the-model"}, "the-model is not a folder on this machine"),
        ("b", {"bare": True}, "--without-system leaves out a part of the scored prompt"),
        ("c", {"model": str(tmp_path)}, f"{tmp_path} cannot render them ("),
        ("d", {"model": str(tmp_path / "model")}, f"{tmp_path / 'model'} cannot render them ("),
    ):
        (tmp_path / name).mkdir()
        run_ = runs.begin(tmp_path / name, **options)
        note = examine("verl", [str(launch)], "segment", run_.folder).notes[-1]
        assert note.startswith(f"tokens: not compared: {why}")


def test_the_command_says_yes_and_no(launch: Path) -> None:
    done = run("doctor", "--trainer", "verl", "--config", launch)
    assert done.exit_code == 1
    assert "wrong: trains on other rows than planned, or loses outcomes" in done.stdout
    assert "      set data.filter_overlong_prompts=false" in done.stdout
    assert f"      (filter, {launch})" in done.stdout
    assert "note: sizes, lengths and tokens are not compared: --run RUN does that" in done.stdout
    assert done.stderr == "error: 1 of 1 finding would break the schedule.\n"
    done = run("doctor", "--trainer", "verl", "--config", launch, "--", "data.filter_overlong_prompts=False")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "  nothing found" in done.stdout
    done = run("doctor", "--trainer", "trl", "--json", "--", "--shuffle_dataset", "true")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert (report["trainer"], report["mode"], report["ok"]) == ("trl", "segment", False)
    shuffle = next(finding for finding in report["findings"] if finding["name"] == "shuffle")
    assert (shuffle["mend"], shuffle["write"]) == ({"shuffle_dataset": False}, ["--shuffle_dataset false"])
    assert shuffle["source"] == "command line"
    assert next(finding for finding in report["findings"] if finding["name"] == "epochs")["source"] == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trainer", "verl"], "--trainer verl: give its settings with --config F, or behind `--`."),
        (["--trainer", "verll"], f"--trainer verll: it must be one of {', '.join(with_part('rules'))}; sim"),
        (["--mode", "live"], "--config, --mode, --run and a command need --trainer."),
    ],
)
def test_the_command_with_something_missing(arguments: list[str], sentence: str) -> None:
    done = run("doctor", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {sentence}")


# What each trainer renders beside messages, against sets that were scored with and without it.

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}<think></think>{% endif %}"
    "{% endif %}"
)


def tool(name: str, parameter: str) -> dict[str, Any]:
    parameters = {"properties": {parameter: {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


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

    @cache
    def of(name: str) -> Path:
        rows, options = SETS[name]
        data, place = tiny.write_jsonl(folder / f"{name}.jsonl", rows), folder / name
        done = run("score", data, "--model", model, "--out", place / "set", *options)
        assert done.exit_code == 0, done.stderr
        return runs.begin(place, budget=4, strategy="file-order", model=str(model)).folder

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
    ("slime", "plain", "--tool-key [a,b]", None, ALL_SEEN),
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

"""What is found in each trainer's own defaults and examples, and that the fixed ones have it no more.

`examples.toml` has the settings of twelve examples of each trainer that matter, as facts, and what would go wrong with
a scheduled round, judged by the trainer's source and not by running it.
"""

from __future__ import annotations

import itertools
import math
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.trainers.doctor.examine import Report, judge, trainer_named, written
from gaincurate.trainers.doctor.findings import SEVERITIES, Finding, Mode, RuleContext, defaults_of
from gaincurate.trainers.doctor.read import Read
from gaincurate.trainers.doctor.settings import normal, scalar
from gaincurate.trainers.names import with_part

MINI, DYNAMIC = "actor_rollout_ref.actor.ppo_mini_batch_size", "actor_rollout_ref.actor.use_dynamic_bsz"
IDS = ["long-a", "long-b"]

# What stays when everything that can be fixed is: no setting reaches it.
LEFT = {"openrlhf": {"shuffle"}, "skyrl": {"shuffle"}}


def default_config(trainer: str) -> dict[str, Any]:
    """The trainer's own default configuration, said aloud."""
    return {normal(key): value for key, value in defaults_of(trainer).items()}


def judged(trainer: str, context: RuleContext, config: dict[str, Any]) -> Report:
    sections = {key.split(".")[0] for key in defaults_of(trainer)}
    return judge(trainer_named(trainer), Read(given=config, sections=sections), context)


def look(trainer: str, context: RuleContext, **changes: Any) -> Report:
    config = default_config(trainer) | {normal(key): value for key, value in changes.items()}
    return judged(trainer, context, config)


def names(report: Report) -> list[str]:
    return [finding.name for finding in report.findings]


def named(report: Report, name: str) -> Finding:
    return next(finding for finding in report.findings if finding.name == name)


def with_fixes(trainer: str, context: RuleContext, config: dict[str, Any]) -> Report:
    """Apply every finding's fix, until there is nothing left to apply."""
    for _ in range(4):
        report = judged(trainer, context, config)
        for finding in report.findings:
            config = config | {normal(key): value for key, value in finding.fix.items()}
    return report


SEGMENT, LIVE, EXPORT = RuleContext("segment"), RuleContext("live"), RuleContext("export")
RUN = RuleContext("segment", budget=96, rounds=10, longest=700, longer_than=lambda limit: IDS)
LIVE_RUN = replace(RUN, mode="live")
READING_RUN = replace(LIVE_RUN, read_every=2, reader="--rescore full")
ROWS_OF_A_RUN = replace(RUN, columns=frozenset({"prompt", "answer", "gc_id"}))

IN_THE_DEFAULTS = {
    "trl": "epochs outcomes output shuffle learning-rate",
    "verl": "data resume epochs no-checkpoint weights output outcomes shuffle validation",
    "openrlhf": "data template label prompt-key outcomes output shuffle learning-rate reference",
    "nemo-rl": "data resume split prompt-file weights shuffle outcomes reference",
    "skyrl": "data resume weights output shuffle outcomes validation reference",
    "slime": "data template length prompt-key outcomes weights no-checkpoint",
    "prime-rl": "length output ahead",
    "trinity": "data resume",
    "areal": "data weights output shuffle reference",
    "ms-swift": "data shuffle epochs outcomes output output adapter reference",
}


@pytest.mark.parametrize("trainer", with_part("rules"))
def test_the_default_configuration_in_segment_mode(trainer: str) -> None:
    assert sorted(names(look(trainer, SEGMENT))) == sorted(IN_THE_DEFAULTS[trainer].split())


TEXT = Path(__file__).with_name("examples.toml").read_text()
EXAMPLES: list[dict[str, str]] = tomllib.loads(TEXT)["example"]
MODES: tuple[Mode, ...] = ("segment", "live", "export")
LOOKS = [
    (example, mode, replace(ROWS_OF_A_RUN, mode=mode))
    for example in EXAMPLES
    for mode in MODES
    if mode != "live" or trainer_named(example["trainer"]).live
]
IN_EXAMPLES = {(example["trainer"], name) for example, mode, _ in LOOKS for name in example[mode].split()}


@pytest.mark.parametrize("trainer", sorted({example["trainer"] for example in EXAMPLES}))
def test_what_is_found_in_the_trainers_own_examples(trainer: str) -> None:
    assert len({example["from"] for example in EXAMPLES if example["trainer"] == trainer}) == 12
    for example, mode, context in (row for row in LOOKS if row[0]["trainer"] == trainer):
        pairs = (word.partition("=") for word in shlex.split(example["set"]))
        config = {normal(key): scalar(value) for key, _, value in pairs}
        report = judged(trainer, context, config)
        assert sorted(names(report)) == sorted(example[mode].split()), (example["from"], mode)
        unjudged = [note.split()[0] for note in report.notes if "not judged" in note]
        assert unjudged == example.get(f"{mode}_unjudged", "").split(), (example["from"], mode)
        left = set(names(with_fixes(trainer, context, config)))
        assert left <= LEFT.get(trainer, set()), (example["from"], mode)


def test_the_count_in_the_docs_is_that_of_the_examples() -> None:
    page = (Path(__file__).parents[3] / "docs/doctor.md").read_text()
    assert f"all {sum(len(example[mode].split()) for example, mode, _ in LOOKS):,} true findings" in page


DATA = {
    "trl": "dataset_name", "verl": "data.train_files", "openrlhf": "data.prompt_dataset",
    "nemo-rl": "data.train.data_path", "skyrl": "data.train_data", "slime": "prompt_data",
    "trinity": "buffer.explorer_input.tasksets.0.path", "areal": "train_dataset.path", "ms-swift": "dataset",
}  # fmt: skip
MODEL = {
    "trl": "model_name_or_path", "verl": "actor_rollout_ref.model.path", "openrlhf": "actor.model_name_or_path",
    "nemo-rl": "policy.model_name", "skyrl": "trainer.policy.model.path", "slime": "hf_checkpoint", "prime-rl":
    "model.name", "trinity": "model.model_path", "areal": "actor.path", "ms-swift": "model",
}  # fmt: skip
SOURCE, TASKS = "orchestrator.train.source.0", "buffer.explorer_input.tasksets.0"
# Findings that no example has, or not by these settings.
MORE: list[tuple[str, str, RuleContext, dict[str, Any]]] = [
    *((trainer, "base-model", SEGMENT, {key: "Qwen/Qwen3-8B"}) for trainer, key in MODEL.items()),
    *(
        (trainer, "view", ROWS_OF_A_RUN, {DATA[trainer]: "{data}"})
        for trainer in ("verl", "openrlhf", "nemo-rl", "slime", "areal", "ms-swift")
    ),
    ("trl", "data", SEGMENT, {"dataset_name": "openai/gsm8k"}),
    ("trl", "outcomes", SEGMENT, {"reward_funcs": "accuracy_reward"}),
    ("trl", "outcomes", SEGMENT, {"reward_funcs": ["think_format_reward", "trl.rewards.accuracy_reward"]}),
    ("trl", "columns", SEGMENT, {"remove_unused_columns": True}),
    ("trl", "columns", LIVE, {"remove_unused_columns": True}),
    ("trl", "tail", RUN, {"generation_batch_size": 56}),
    ("trl", "window", LIVE, {"steps_per_generation": 3}),
    ("trl", "window", EXPORT, {"num_iterations": 3}),
    ("trl", "window", LIVE, {"save_steps": 0.1}),
    ("trl", "window-end", LIVE, {"num_iterations": 3, "max_steps": 500}),
    ("trl", "uneven-steps", LIVE_RUN, {"steps_per_generation": 1, "gradient_accumulation_steps": 5}),
    ("trl", "checkpoint", READING_RUN, {}),
    ("trl", "dealing", SEGMENT, {"accelerator_config.split_batches": True}),
    ("trl", "skip", SEGMENT, {"resume_from_checkpoint": "{checkpoint}"}),
    ("trl", "skip", LIVE, {"ignore_data_skip": True}),
    ("trl", "resumed-length", SEGMENT, {"resume_from_checkpoint": "{checkpoint}"}),
    ("trl", "resumed-length", RUN, {"resume_from_checkpoint": "{checkpoint}", "max_steps": 96}),
    ("trl", "no-checkpoint", SEGMENT, {"save_strategy": "no"}),
    ("trl", "optimizer", SEGMENT, {"save_only_model": True}),
    ("trl", "optimizer", LIVE, {"save_only_model": True}),
    ("trl", "reference", SEGMENT, {"beta": 0.04}),
    ("slime", "base-model", SEGMENT, {"hf_checkpoint": "{checkpoint}", "ref_load": "/models/base"}),
    ("slime", "base-model", SEGMENT, {"load": "/models/base"}),
    ("verl", "view", ROWS_OF_A_RUN, {"data.train_files": ["{data}"]}),
    ("verl", "filter", SEGMENT, {"data.filter_overlong_prompts": True}),
    ("verl", "subset", SEGMENT, {"data.train_max_samples": 500}),
    ("verl", "max-steps", RUN, {"trainer.total_training_steps": 7, "data.train_batch_size": 32}),
    ("verl", "filter-groups", SEGMENT, {"algorithm.filter_groups.enable": True}),
    ("verl", "sampler-gone", SEGMENT, {"data.sampler.class_path": "pkg://mine"}),
    ("verl", "adapter", SEGMENT, {"actor_rollout_ref.model.lora.rank": 32}),
    ("verl", "refill", SEGMENT, {"trainer.v1.sampler.sync_refill_failed_groups": True}),
    ("verl", "split-steps", LIVE, {"trainer.v1.sync.parameter_sync_step": 2}),
    ("verl", "weights", READING_RUN, {}),
    ("verl", "async-save", READING_RUN, {"actor_rollout_ref.actor.checkpoint.async_save": True}),
    ("verl", "checkpoint", READING_RUN, {"data.train_batch_size": 32, "trainer.save_freq": 5}),
    ("verl", "max-steps", LIVE_RUN, {"trainer.total_training_steps": 99, "data.train_batch_size": 32}),
    ("trl", "saves-anywhere", LIVE, {"save_strategy": "best"}),
    ("verl", "late-rewards", LIVE, {"reward.reward_model.enable": True}),
    ("verl", "legacy", LIVE, {"trainer.use_v1": False}),
    ("verl", "async", LIVE, {"trainer.v1.trainer_mode": "separate_async"}),
    ("openrlhf", "subset", RUN, {"data.max_samples": 50}),
    ("openrlhf", "too-long", RUN, {"data.max_len": 1024, "rollout.max_new_tokens": 512}),
    ("openrlhf", "adapter", SEGMENT, {"ds.lora.rank": 16}),
    ("nemo-rl", "epochs", SEGMENT, {"grpo.max_num_epochs": 2}),
    ("nemo-rl", "data", SEGMENT, {"data.train.0.dataset_name": "A", "data.train.1.data_path": "{data}"}),
    ("skyrl", "max-steps", RUN, {"trainer.train_batch_size": 32, "trainer.max_training_steps": 2}),
    ("slime", "too-long", RUN, {"rollout_max_prompt_len": 512}),
    ("slime", "metadata", SEGMENT, {"metadata_key": "extra"}),
    ("slime", "epochs", SEGMENT, {"num_epoch": 3}),
    ("slime", "partial-rollout", SEGMENT, {"partial_rollout": True}),
    ("slime", "partial-rollout", LIVE, {"partial_rollout": True}),
    ("slime", "output", SEGMENT, {"save_hf": "/ckpt/hf/{rollout_id}"}),
    ("slime", "reference", SEGMENT, {"kl_loss_coef": 0.01}),
    ("prime-rl", "sampler", SEGMENT, {f"{SOURCE}.curriculum.sampler.type": "difficulty_pool"}),
    ("prime-rl", "gate", SEGMENT, {"orchestrator.train.source.0.curriculum.gates.a.type": "advantage_range"}),
    ("prime-rl", "tail", RUN, {"orchestrator.group_size": 4, f"{SOURCE}.group_size": 2}),
    ("prime-rl", "token-batch", SEGMENT, {"orchestrator.token_batch_size": 65536}),
    ("prime-rl", "tail", RUN, {"orchestrator.group_size": 2}),
    ("prime-rl", "too-long", RUN, {"orchestrator.seq_len": 512}),
    ("prime-rl", "too-long", RUN, {"seq_len": 512}),
    ("prime-rl", "weights", SEGMENT, {"trainer.weight_broadcast.type": "nixl"}),
    ("trinity", "shuffle", SEGMENT, {f"{TASKS}.data_selector.selector_type": "shuffle"}),
    ("trinity", "selector", SEGMENT, {f"{TASKS}.data_selector.selector_type": "random"}),
    ("trinity", "selector", SEGMENT, {"buffer.explorer_input.taskset.data_selector.selector_type": "random"}),
    ("trinity", "template", SEGMENT, {"buffer.explorer_input.tasksets.0.workflow_args.use_base": True}),
    ("trinity", "prompt-key", SEGMENT, {"buffer.explorer_input.tasksets.0.format.prompt_key": "question"}),
    ("trinity", "task-pipeline", SEGMENT, {"data_processor.task_pipeline.top_k": 500}),
    ("trinity", "half", SEGMENT, {"mode": "explore"}),
    ("trinity", "over-rollout", SEGMENT, {"explorer.over_rollout.ratio": 0.2}),
    ("trinity", "weights", SEGMENT, {"trainer.save_hf_checkpoint": "never"}),
    ("trinity", "output", SEGMENT, {"continue_from_checkpoint": False}),
    ("areal", "resume", SEGMENT, {"recover.mode": "auto"}),
    ("areal", "max-steps", RUN, {"total_train_steps": 7}),
    ("ms-swift", "tail", RUN, {"generation_batch_size": 56}),
    ("ms-swift", "max-steps", RUN, {"generation_batch_size": 64, "max_steps": 40}),
    ("ms-swift", "too-long", RUN, {"max_length": 512}),
    ("ms-swift", "dynamic-sampling", SEGMENT, {"dynamic_sample": True}),
    ("ms-swift", "resume", SEGMENT, {"resume_from_checkpoint": "{checkpoint}"}),
]


@pytest.mark.parametrize("trainer", with_part("rules"))
def test_each_finding_is_there_and_its_fix_takes_it_away(trainer: str) -> None:
    for _, name, context, changes in (row for row in MORE if row[0] == trainer):
        report = look(trainer, context, **changes)
        assert name in names(report), changes
        finding = named(report, name)
        assert finding.fix, name
        config = default_config(trainer) | {normal(key): value for key, value in changes.items()}
        once = config | {normal(key): value for key, value in finding.fix.items()}
        left = judged(trainer, context, once).findings
        assert finding.title not in {one.title for one in left}, changes


@pytest.mark.parametrize("trainer", with_part("rules"))
def test_the_fixed_default_configuration_is_clean(trainer: str) -> None:
    for context in (SEGMENT, LIVE, EXPORT, RUN, LIVE_RUN, READING_RUN, ROWS_OF_A_RUN):
        if trainer_named(trainer).live or not context.live:
            report = with_fixes(trainer, context, default_config(trainer))
            assert set(names(report)) <= LEFT.get(trainer, set()), context
            assert report.ok, context


def test_a_value_that_only_the_shell_knows_is_not_judged_and_the_rest_is() -> None:
    config = {"trainer.save_freq": "$FREQ", "data.shuffle": "${SHUFFLE}"}
    report = judge(trainer_named("verl"), Read(given=config), SEGMENT)
    assert not {"no-checkpoint", "shuffle"} & set(names(report))
    assert {"weights", "resume"} <= set(names(report))
    ranks = [list(SEVERITIES).index(finding.severity) for finding in report.findings]
    assert ranks == sorted(ranks)  # the worst first
    assert [note for note in report.notes if "$FREQ" in note] == [
        "trainer.save_freq is $FREQ, which is not known before it runs: what follows from it is not judged"
    ]


PATHS = [(trainer, key, "data") for trainer, key in DATA.items()]
PATHS += [(trainer, key, "base-model") for trainer, key in (MODEL | {"slime": "load"}).items()]


@pytest.mark.parametrize(("trainer", "key", "name"), PATHS)
def test_a_path_is_fixed_unless_a_round_may_fill_it_in(trainer: str, key: str, name: str) -> None:
    for fixed in ("Qwen/a", "$HOME/data/train.parquet", "${DATA_DIR}/a", "${oc.env:HOME}/a", "$ROWS"):
        report = look(trainer, SEGMENT, **{key: fixed})
        finding = named(report, name)
        assert f"{key} is {fixed}" in finding.title
        assert finding.severity == "wrong"
        assert name == "data" or finding.fix[key] == "{checkpoint}"
        assert not [note for note in report.notes if fixed in note]
        assert name not in names(look(trainer, LIVE, **{key: fixed}))
    for path in ("$data", "$checkpoint", "$GAINCURATE_DATA_X", "${1}/a", "$(ls x)"):
        report = look(trainer, SEGMENT, **{key: path})
        assert name not in names(report), path
        assert [note for note in report.notes if f"is {path}, which is not known before it runs" in note]
    own = "DATA" if name == "data" else "CHECKPOINT"
    for path in (f"{{{own.lower()}}}", f"${{oc.env:GAINCURATE_{own}}}", "$X/{round}.parquet", "{output}/$N"):
        assert name not in names(look(trainer, SEGMENT, **{key: path}))


@pytest.mark.parametrize(
    ("trainer", "name", "value", "there"),
    [
        ("trl", "base-model", "{checkpoint}", False),  # its weights replace the model's
        ("trl", "base-model", "old/checkpoint-8", True),
        ("ms-swift", "resume", None, False),  # as good as the right value
        ("ms-swift", "resume", False, False),
        ("ms-swift", "resume", "{checkpoint}", True),
    ],
)
def test_a_checkpoint_to_resume_from(trainer: str, name: str, value: Any, there: bool) -> None:
    given = {"model_name_or_path": "Qwen/a", "resume_from_checkpoint": value}
    assert (name in names(look(trainer, SEGMENT, **given))) == there


def test_verl_reads_the_rounds_own_file_where_it_has_what_verl_reads() -> None:
    enough = frozenset({"prompt", "gc_id", "data_source", "reward_model", "extra_info"})
    report = look("verl", replace(ROWS_OF_A_RUN, columns=enough), **{"data.train_files": "{data}"})
    assert not {"view", "data"} & set(names(report))
    context = replace(ROWS_OF_A_RUN, columns=enough - {"extra_info"}, folder="/my runs/a")
    for name, changes in (("data", {}), ("view", {"data.train_files": "{data}"})):
        finding = named(look("verl", context, **changes), name)
        assert finding.fix == {"data.train_files": "{output}/data.parquet"}
        assert finding.advice == (
            "at the head of the round's script: `gaincurate export '/my runs/a' --trainer verl --data-source NAME "
            "--out {output}/data.parquet --overwrite`"
        )
    assert "is {data}: the rounds of this run have no extra_info, which the" in finding.title
    other = {"data.prompt_dataset": "{data}", "data.label_key": "answer"}
    assert "view" not in names(look("openrlhf", context, **other))


def test_the_tail_is_named_in_numbers_with_sizes_that_verl_takes() -> None:
    """Its own check: without dynamic batches, a step has at least the prompts of a mini-batch."""
    report = look("verl", replace(RUN, budget=100), **{"data.train_batch_size": 32})
    finding = named(report, "tail")
    assert "32 prompts a step, but a round has 100: the last 4 of each round" in finding.title
    assert finding.fix == {"data.train_batch_size": 25, MINI: 25}
    assert finding.advice == "or start the run with `gaincurate schedule start --align-to 32 --budget 96`"
    for changes, mini in (({MINI: 26}, 25), ({MINI: 25}, 0), ({DYNAMIC: True}, 0), ({MINI: "$MINI"}, 0)):
        given: dict[str, Any] = {"data.train_batch_size": 32, **changes}
        finding = named(look("verl", replace(RUN, budget=100), **given), "tail")
        assert finding.fix == {"data.train_batch_size": 25} | ({MINI: mini} if mini else {})


@given(budget=st.integers(1, 4096), batch=st.integers(1, 2048))
def test_a_tail_is_found_exactly_where_rows_are_left(budget: int, batch: int) -> None:
    context = RuleContext("segment", budget=budget, rounds=1)
    report = look("areal", context, **{"train_dataset.batch_size": batch})
    found = [one for one in report.findings if one.name == "tail"]
    assert bool(found) == (budget % batch != 0)
    if found:
        nearest = min((n for n in range(batch, 8193, batch)), key=lambda n: abs(n - budget))
        assert found[0].advice.endswith(f"--align-to {batch} --budget {nearest}`")
        size = found[0].fix["train_dataset.batch_size"]
        assert budget % size == 0
        assert size <= batch


SIZES, FEW = st.integers(1, 512), st.integers(1, 16)


@given(budget=SIZES, batch=SIZES, group=FEW, many=st.integers(1, 4))
def test_openrlhfs_advised_budget_has_no_tail(budget: int, batch: int, group: int, many: int) -> None:
    sizes = {"train.batch_size": batch, "rollout.batch_size": batch * many}
    sizes |= {"rollout.n_samples_per_prompt": group}
    context = RuleContext("segment", budget=budget, rounds=1)
    for finding in look("openrlhf", context, **sizes).findings:
        if finding.name == "tail":
            advised = int(finding.advice.rsplit("--budget ", 1)[1].rstrip("`"))
            assert "tail" not in names(look("openrlhf", replace(context, budget=advised), **sizes))


@given(budget=SIZES, group=st.integers(2, 16), device=FEW, steps=FEW, gathered=FEW, again=st.integers(1, 3))
def test_trl_steps_are_its_samplers(
    budget: int, group: int, device: int, steps: int, gathered: int, again: int
) -> None:
    """Against the sampler's own arithmetic, counted step by step."""
    size = device * steps
    if size % group or size // group > budget:
        return
    micro = (budget // (size // group)) * steps * again
    optimizer = sum(1 for done in range(1, micro + 1) if done % gathered == 0 or done == micro)
    changes = {"num_generations": group, "per_device_train_batch_size": device, "num_iterations": again}
    changes |= {"steps_per_generation": steps, "gradient_accumulation_steps": gathered}
    context = RuleContext("segment", budget=budget, rounds=1)
    assert "max-steps" not in names(look("trl", context, **changes, max_steps=optimizer))
    assert "max-steps" in names(look("trl", context, **changes, max_steps=optimizer + 1))


WRITTEN: list[tuple[str, dict[str, Any], list[str]]] = [
    ("verl", {"data.shuffle": False, "a": None}, ["data.shuffle=false", "a=null"]),
    ("openrlhf", {"a.b": True, "c": False}, ["--a.b", "without --c"]),
    ("slime", {"save_hf": "{output}/hf", "load": None}, ["--save-hf {output}/hf", "without --load"]),
    ("trl", {"shuffle_dataset": False, "files": ["a", "b"]}, ["--shuffle_dataset false", "--files a b"]),
    ("prime-rl", {"max_steps": 4, "resume.step": None}, ["--max-steps 4", "without --resume.step"]),
]


@pytest.mark.parametrize(("trainer", "fix", "lines"), WRITTEN)
def test_a_fix_is_written_as_it_is_taken(trainer: str, fix: dict[str, Any], lines: list[str]) -> None:
    assert written(trainer_named(trainer).style, fix) == lines


@pytest.mark.parametrize("trainer", with_part("rules"))
def test_no_value_of_any_setting_ends_a_rule(trainer: str) -> None:
    keys = default_config(trainer)
    for key, value in itertools.product(keys, (math.nan, -1, 10**30, "x", [[1]], {"a": 1}, True)):
        assert all(finding.title for finding in look(trainer, RUN, **{key: value}).findings), (key, value)


ROWS = {
    "reads another file than the round's": "data",
    "shuffles": "shuffle",
    "chooses rows by itself, or replaces groups": (
        "sampler gate selector sampler-gone filter-groups dynamic-sampling dynamic-batch over-rollout over-sampling task-pipeline"
    ),
    "drops the tail of a round": "tail",
    "drops or cuts long prompts": "too-long filter",
    "trains a round several times, or not to its end": "epochs max-steps rollouts resumed-length length",
    "begins every round from the same model": "base-model",
    "resumes the last file's position in a new file": "resume skip",
    "loses `gc_id`, or reports no outcomes": "columns label metadata outcomes log-without-id feedback",
    "reads other prompts than were scored": "template prompt-file",
    "reads columns that a round's file does not have": "view",
    "chooses prompts before the rewards are known": "workers async ahead",
    "leaves no checkpoint where the run looks for one": "no-checkpoint weights output",
    "an adapter alone as a checkpoint": "adapter",
    "learning rate or optimizer start over": "learning-rate optimizer",
    "KL reference that moves": "reference",
}


def test_the_table_in_the_docs_is_true() -> None:
    page = (Path(__file__).parents[3] / "docs/doctor.md").read_text()
    seen = {(trainer, name) for trainer, found in IN_THE_DEFAULTS.items() for name in found.split()}
    seen |= IN_EXAMPLES | {(trainer, name) for trainer, name, _, _ in MORE}
    for row, found in ROWS.items():
        those = {trainer for trainer, name in seen if name in found.split()}
        there = [trainer for trainer in with_part("rules") if trainer in those]
        others = [trainer for trainer in with_part("rules") if trainer not in those]
        shown = ", ".join(there) if len(others) > 3 else f"all but {', '.join(others)}" if others else "all"
        assert f"| {row} | {shown} |" in page

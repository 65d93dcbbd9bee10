"""What makes a trainer read an exported file as it is: takes file and view, yields settings and hints.

Names are those of the versions in `names.FACTS`. Nothing here is run.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gaincurate.schema import ID
from gaincurate.trainers.views import View


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a trainer on a file.

    `form` says what `settings` are: "flags" (words of a command line), "yaml" or "python" (lines of text).
    `hints` are sentences about what no setting can change.
    """

    form: str
    settings: list[str]
    hints: list[str]

    @property
    def text(self) -> str:
        """The settings, ready to be pasted."""
        if self.form == "flags":
            return " ".join(map(_quoted, self.settings))
        return "\n".join(self.settings)


def _quoted(word: str) -> str:
    """A word for a shell; one with single quotes alone is easier to read in double ones."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _hydra(path: Path, *, quote: bool = False) -> str:
    """A path as a value of Hydra's override grammar."""
    if not quote and re.fullmatch(r"[\w./+@:%?|-]+", str(path)):
        return str(path)
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


_SHUFFLES = (
    "{} shuffles its prompts and has no switch for it: which rows it trains on holds, their order does not"
)


def launch(path: Path, view: View) -> Launch:
    """The settings and hints for a file that was written through a view."""
    return _LAUNCHES[view.trainer](path.resolve(), view)


def system_file(path: Path) -> Path:
    """Where the system message of an export for NeMo-RL goes."""
    return path.with_name(f"{path.stem}.system.txt")


def _kind(path: Path) -> str:
    return "parquet" if path.suffix == ".parquet" else "json"


def _load(path: Path) -> str:
    return f'train_dataset = datasets.load_dataset("{_kind(path)}", data_files={str(path)!r}, split="train")'


def _trl(path: Path, view: View) -> Launch:
    config = "shuffle_dataset=False, dataloader_num_workers=0, remove_unused_columns=False"
    hint = (
        f'log_extra("{ID}", {ID}) in the reward function puts the id into the completions that TRL logs with '
        "log_completions=True, logging_steps=1"
    )
    return Launch("python", [_load(path), f"config = trl.GRPOConfig({config})"], [hint])


def _verl(path: Path, view: View) -> Launch:
    flags = [
        f"data.train_files={_hydra(path)}",
        "data.prompt_key=prompt",
        "data.reward_fn_key=data_source",
        "data.shuffle=False",
        "data.dataloader_num_workers=0",
        "data.filter_overlong_prompts=False",
        "data.train_max_samples=-1",
    ]
    hints = [
        "a reward function of yours (reward.custom_reward_function.path=reward.py) gets the id as "
        f"extra_info['{ID}']; verl's own know the data_source of its examples alone",
        "also set data.val_files, and a data.train_batch_size that divides the rows: the rest is dropped",
    ]
    if view.parts.id_in_answer:
        hints.append(
            "ground_truth is JSON with the id and the answer, which verl's own functions cannot read"
        )
    else:
        hints.append(
            "trainer.rollout_data_dir logs ground_truth and not extra_info, so from there rows are joined on "
            "the prompt's text, or with --id-in-answer on the id"
        )
    return Launch("flags", flags, hints)


def _openrlhf(path: Path, view: View) -> Launch:
    flags = ["--data.prompt_dataset", str(path), "--data.prompt_split", "train"]
    flags += ["--data.input_key", "prompt", "--data.apply_chat_template"]
    flags += ["--data.label_key", "label"] if "label" in view.own else []
    hints = [_SHUFFLES.format("OpenRLHF")]
    if view.parts.id_in_answer:
        hints.append(f'a label is JSON: {{"{ID}": ..., "answer": ...}}')
    return Launch("flags", flags, hints)


def _nemo_rl(path: Path, view: View) -> Launch:
    system = "null" if view.parts.system is None else _hydra(system_file(path))
    flags = [
        "++data.train.dataset_name=ResponseDataset",
        f"++data.train.data_path={_hydra(path)}",
        "++data.train.input_key=input",
        "++data.train.output_key=output",
        "++data.train.split_validation_size=0",
        "++data.default.prompt_file=null",
        f"++data.default.system_prompt_file={system}",
        "++data.default.processor=math_hf_data_processor",
        "++data.shuffle=false",
    ]
    hint = (
        "only the answer reaches NeMo-RL's environment, and train_data_step*.jsonl has the prompt's text, on "
        "which rows are joined; --id-in-answer puts the id into the answer, for an environment of your own"
    )
    return Launch("flags", flags, [hint])


def _skyrl(path: Path, view: View) -> Launch:
    flags = [f"data.train_data=[{_hydra(path, quote=True)}]"]
    if view.options.env_class is not None:
        flags.append(f"environment.env_class={view.options.env_class}")
    hints = [_SHUFFLES.format("SkyRL"), f"an environment gets the id as extras['{ID}']"]
    hints.append("rows longer than trainer.max_prompt_length (512) are left out")
    return Launch("flags", flags, hints)


def _slime(path: Path, view: View) -> Launch:
    flags = ["--prompt-data", str(path), "--input-key", "prompt"]
    flags += ["--label-key", "label"] if "label" in view.own else []
    flags += ["--metadata-key", "metadata", "--apply-chat-template"]
    return Launch("flags", flags, ["leave --rollout-shuffle out", f"the id is in Sample.metadata['{ID}']"])


def _prime_rl(path: Path, view: View) -> Launch:
    hints = [
        "prime-rl reads no files: your verifiers taskset yields one task for each row, and docs/export.md "
        "has one; the id comes back as the task's name",
    ]
    return Launch("python", [_load(path)], hints)


def _trinity(path: Path, view: View) -> Launch:
    form = {"prompt_key": "prompt"} | ({"response_key": "answer"} if "answer" in view.own else {})
    if view.parts.system is not None:
        form["system_prompt"] = view.parts.system
    lines = [
        "buffer:",
        "  explorer_input:",
        "    tasksets:",
        "      - name: gaincurate",
        "        storage_type: file",
        f"        path: {json.dumps(str(path.parent), ensure_ascii=False)}",
        "        split: train",
        f"        format: {json.dumps(form, ensure_ascii=False)}",
        "        data_selector: {selector_type: sequential}",
    ]
    return Launch("yaml", lines, [f"a workflow gets the id as task.raw_task['{ID}']"])


def _areal(path: Path, view: View) -> Launch:
    hints = [
        "these lines go into your training script; with train_dataset.shuffle=false and "
        "train_dataset.num_workers=0 the rows keep their order",
        f"a reward function gets the id as the keyword {ID}",
    ]
    return Launch("python", [_load(path)], hints)


def _roll(path: Path, view: View) -> Launch:
    lines = [
        "actor_train:",
        "  data_args:",
        "    dataset_type: json",
        f"    file_name: [{json.dumps(str(path), ensure_ascii=False)}]",
        "    id: id",
        "    messages: messages",
        "    tag: tag",
    ]
    hints = [_SHUFFLES.format("ROLL"), "rows longer than prompt_length are left out"]
    return Launch("yaml", lines, [*hints, "tag picks the domain, and with it the reward (tag_included)"])


def _open_instruct(path: Path, view: View) -> Launch:
    flags = ["--dataset_mixer_list", str(path), "1.0", "--dataset_mixer_list_splits", "train"]
    hint = "only the answer reaches its verifiers; --id-in-answer puts the id there, for one of your own"
    return Launch("flags", flags, [_SHUFFLES.format("open-instruct"), hint])


_LAUNCHES: dict[str, Callable[[Path, View], Launch]] = {
    "trl": _trl,
    "verl": _verl,
    "openrlhf": _openrlhf,
    "nemo-rl": _nemo_rl,
    "skyrl": _skyrl,
    "slime": _slime,
    "prime-rl": _prime_rl,
    "trinity": _trinity,
    "areal": _areal,
    "roll": _roll,
    "open-instruct": _open_instruct,
}

"""Exports read by the trainers' own loaders; `make test-loaders` installs them, elsewhere they are skipped."""

from __future__ import annotations

import importlib
import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import exports
import tiny
from gaincurate.trainers.columns import ViewOptions
from gaincurate.trainers.export import Exported, Pick, export

# What the trainers' packages warn of is not ours to mend.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("cache")]

ADDED = {"system": exports.SYSTEM, "shots": exports.SHOTS}
ROWS = exports.sums()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's data sets keep what they read; not beside the user's."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def needed(name: str) -> Any:
    """A trainer's package; without it the test is skipped, but not where it was installed for this."""
    if os.environ.get("GAINCURATE_LOADERS") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name)


IDS = [f"id{k:04d}" for k in range(len(ROWS))]


def written(
    folder: Path, trainer: str, suffix: str, *, segmentation: Any = ADDED, **options: Any
) -> Exported:
    scored = exports.make_set(folder / "set", ROWS, segmentation=segmentation)
    return export(scored, trainer, folder / "o u't=1" / f"train{suffix}", ViewOptions(**options), Pick())


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_verl_reads_the_file_with_the_printed_settings(tmp_path: Path, suffix: str) -> None:
    verl = needed("verl")
    import hydra
    from torchdata.stateful_dataloader import StatefulDataLoader
    from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler
    from verl.utils.dataset.rl_dataset import collate_fn

    found = written(tmp_path, "verl", suffix, data_source="openai/gsm8k")
    # The words that a shell makes of the printed line, over the trainer's own defaults.
    overrides = [*shlex.split(found.launch.text), f"+data.cache_dir={tmp_path}/verl"]
    with hydra.initialize_config_dir(str(Path(verl.__file__).parent / "trainer/config"), version_base=None):
        config = hydra.compose("ppo_trainer", overrides)
    data = config.data
    dataset = create_rl_dataset(data.train_files, data, tiny.tokenizer(), None)
    assert len(dataset) == len(ROWS)
    item = dataset[2]
    assert item["raw_prompt"] == exports.full("What is 2 plus 2?")
    assert (item["index"], item["extra_info"]["gc_id"]) == (2, "id0002")
    loader = StatefulDataLoader(
        dataset,
        batch_size=3,
        num_workers=data.dataloader_num_workers,
        sampler=create_rl_sampler(data, dataset),
        collate_fn=collate_fn,
    )
    batches = list(loader)
    assert [info["gc_id"] for batch in batches for info in batch["extra_info"]] == IDS
    assert [entry["ground_truth"] for entry in batches[1]["reward_model"]] == ["6", "8", "10"]
    assert list(batches[0]["data_source"]) == ["openai/gsm8k"] * 3
    assert list(batches[0]["level"]) == [0, 1, 2]


def test_verls_reward_manager_gets_the_answer_that_its_function_reads(tmp_path: Path) -> None:
    needed("verl")
    from verl.utils.dataset.rl_dataset import RLHFDataset
    from verl.utils.reward_score import default_compute_score

    written(tmp_path, "verl", ".parquet", data_source="openai/gsm8k")
    from omegaconf import OmegaConf

    config = OmegaConf.create({"cache_dir": str(tmp_path / "verl"), "filter_overlong_prompts": False})
    file = str(tmp_path / "o u't=1/train.parquet")
    item = RLHFDataset(file, tiny.tokenizer(), config)[3]
    truth = item["reward_model"]["ground_truth"]
    assert default_compute_score(item["data_source"], "#### 6", truth, item["extra_info"]) == 1.0
    assert default_compute_score(item["data_source"], "#### 7", truth, item["extra_info"]) == 0.0


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_openrlhf_reads_the_file_and_the_label_brings_the_id_back(tmp_path: Path, suffix: str) -> None:
    openrlhf = needed("openrlhf")
    from openrlhf.datasets import PromptDataset
    from openrlhf.datasets.utils import blending_datasets

    found = written(tmp_path, "openrlhf", suffix, data_source="sums")
    words = shlex.split(found.launch.text)
    parser = (Path(openrlhf.__file__).parent / "cli/train_ppo_ray.py").read_text()
    assert all(f'"{word}"' in parser for word in words if word.startswith("--"))
    given = dict(zip(words[0::2], words[1::2], strict=False))
    keys = SimpleNamespace(input_key="prompt", label_key="label", apply_chat_template=True)
    arguments = SimpleNamespace(use_ms=False, data=keys)
    strategy = SimpleNamespace(args=arguments, print=print, is_rank_0=lambda: True)
    data = blending_datasets(given["--data.prompt_dataset"], None, strategy, 42, dataset_split="train")
    tokenizer = tiny.tokenizer()
    dataset = PromptDataset(data, tokenizer, strategy)
    sources, prompts, labels, _ = dataset.collate_fn([dataset[k] for k in range(len(dataset))])
    expected = [{"gc_id": name, "answer": str(2 * k)} for k, name in enumerate(IDS)]
    assert [json.loads(label) for label in labels] == expected
    assert sources == ["sums"] * len(ROWS)
    chat = exports.full("What is 4 plus 4?")
    assert prompts[4] == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_trinitys_taskset_reader_yields_the_prompts_and_ids(tmp_path: Path, suffix: str) -> None:
    needed("trinity")
    from omegaconf import OmegaConf
    from trinity.buffer.reader.file_reader import TaskFileReader
    from trinity.common.config import TasksetConfig

    found = written(tmp_path, "trinity", suffix, segmentation={"system": exports.SYSTEM}, with_scores=True)
    made = OmegaConf.create(found.launch.text)["buffer"]["explorer_input"]["tasksets"][0]
    taskset: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TasksetConfig), made))
    taskset.default_workflow_type, taskset.default_reward_fn_type = "math_workflow", "math_reward"
    taskset.batch_size = 2
    reader = TaskFileReader(taskset.to_storage_config())
    tasks = [task for _ in range(3) for task in reader._read_sync()]
    assert [task.raw_task["gc_id"] for task in tasks] == IDS
    assert [task.task_desc for task in tasks] == [row["question"] for row in ROWS]
    assert [task.truth for task in tasks] == [row["answer"] for row in ROWS]
    workflow = tasks[2].workflow(task=tasks[2], model=SimpleNamespace(), auxiliary_models=None)
    question = {"role": "user", "content": "What is 2 plus 2?"}
    assert workflow.format_messages() == [exports.full("")[0], question]
    assert isinstance(tasks[1].raw_task["gc_angle"], float)


@pytest.mark.parametrize("trainer", ["trl", "skyrl", "slime", "areal"])
def test_datasets_reads_what_loaders_built_on_it_get(tmp_path: Path, trainer: str) -> None:
    import datasets

    written(tmp_path, trainer, ".parquet")
    path = str(tmp_path / "o u't=1/train.parquet")
    rows = datasets.load_dataset("parquet", data_files=path, split="train")
    name = "messages" if trainer == "areal" else "prompt"
    assert rows[5][name] == exports.full("What is 5 plus 5?")
    assert rows["gc_id"][:2] == ["id0000", "id0001"]


def test_prime_rls_taskset_yields_tasks_with_their_ids(tmp_path: Path) -> None:
    needed("verifiers")
    run = exports.begin(tmp_path, segmentation=ADDED)
    found = export(run.folder, "prime-rl", tmp_path / "train.jsonl", ViewOptions(), Pick())
    page = (Path(__file__).parents[2] / "docs/export.md").read_text()
    scope, code = dict[str, Any](), page.partition("```python\n")[2].partition("```")[0]
    exec(compile(code, "docs/export.md", "exec", 0, True), scope)
    tasks = list(scope["Rows"](scope["RowsConfig"](file=str(tmp_path / "train.jsonl"))))
    assert [task.key for task in tasks] == [task.data.name for task in tasks] == run.ids(0)
    assert found.rows == len(tasks)
    assert tasks[0].data.system_prompt == exports.SYSTEM
    assert [message.role for message in tasks[0].data.prompt] == ["user", "assistant", "user"]

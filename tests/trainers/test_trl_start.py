"""What `attach` sets, names and opens before a trainer follows a run; the slow test is the docs' own script."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import trl
from hypothesis import given
from hypothesis import strategies as st

import runs
import sets
import tiny
import trl_run
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule.config import RescoreConfig, ScheduleConfig
from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.findings import context_of
from gaincurate.trainers.trl.batching import shape_of
from gaincurate.trainers.trl.checks import check
from gaincurate.trainers.trl.start import config_of, model_of, see_same, set_defaults, with_ids
from trl_run import schedule as config

DOCS = Path(__file__).parents[2] / "docs/trl.md"


def trainer(**options: Any) -> Any:
    """With TRL's own settings and defaults."""
    args = trl.GRPOConfig("out", use_cpu=True, bf16=False, report_to="none", **options)
    return trl_run.stub(args, [f"id{k}" for k in range(16)])


def attached(made: Any, run: ScheduleConfig) -> dict[str, Any]:
    """What was set, where nothing is left to refuse."""
    changed = set_defaults(made, context_of(run, "live"))
    check(made, run)
    return changed


UNSHUFFLED: dict[str, Any] = {"shuffle_dataset": False}
WINDOW: dict[str, Any] = {"steps_per_generation": 16}  # a generation feeds 16 steps: 500 lies inside one


@pytest.mark.parametrize(
    ("options", "run", "changed"),
    [
        ({}, config(rounds=5), UNSHUFFLED | {"num_train_epochs": 5}),
        (UNSHUFFLED, config(), {}),
        ({"max_steps": 80}, config(rounds=5), UNSHUFFLED),
        (WINDOW, config(rounds=5), UNSHUFFLED | {"save_steps": 512, "num_train_epochs": 5}),
        # at the end of every second round of 16 steps
        (WINDOW, config("window", 2, rounds=5), UNSHUFFLED | {"save_steps": 32, "num_train_epochs": 5}),
        (UNSHUFFLED | {"save_strategy": "epoch", "num_train_epochs": 5}, config("full", rounds=5), {}),
    ],
)
def test_trls_defaults_are_set(options: dict[str, Any], run: ScheduleConfig, changed: dict[str, Any]) -> None:
    made = trainer(**options)
    assert attached(made, run) == changed
    for name, value in changed.items():
        assert getattr(made if name == "shuffle_dataset" else made.args, name) == value
    assert attached(made, run) == {}  # and it stays


def test_what_a_script_set_to_something_wrong_is_left_and_refused_all_at_once() -> None:
    made = trainer(num_train_epochs=7, save_steps=30, ignore_data_skip=True, steps_per_generation=16)
    with pytest.raises(InputError) as caught:
        attached(made, config("window", rounds=5))
    assert caught.value.data["findings"] == ["window", "checkpoint", "skip", "epochs"]
    assert (made.args.num_train_epochs, made.args.save_steps) == (7, 30)
    assert made.shuffle_dataset is False


def test_a_run_is_opened_with_the_trainers_own_batch() -> None:
    shape = shape_of(trainer(steps_per_generation=4))
    three = {"strategy": "uniform", "budget": 8, "rounds": 2}
    made = config_of(shape, "a/run", three, {"seed": 3})
    assert made is not None
    assert (made.align_to, made.scored, made.run, made.seed) == (4, Path("a/run-scored"), Path("a/run"), 3)
    assert config_of(shape, "run", dict.fromkeys(three), {}) is None
    given = config_of(shape, "run", three, {"scored": "set", "align_to": 2})
    assert given is not None
    assert (given.scored, given.align_to) == (Path("set"), 2)


@pytest.mark.parametrize(
    ("three", "options", "sentence"),
    [
        (("uniform", None, None), {}, "budget, rounds are missing"),
        ((None, None, None), {"reward_low": -1}, "strategy, budget, rounds are missing"),
        (("uniform", 8, None), {}, "rounds is missing"),
        (("uniform", 8, 2), {"sead": 3}, "there is no keyword 'sead'; similar: seed"),
        (("uniform", 0, 2), {}, "budget = 0: it should be greater"),
        (("uniform", 8, 2), {"rescore": {"what": "windows"}}, "rescore.what = 'windows': it should be 'off'"),
        (("dots", None, 2), {}, "strategy dots draws prompts for refresh_every = 2 steps"),
        (("gain-rl", 8, 2), {"options": {"sigma": "wide"}}, "strategy gain-rl: sigma = 'wide'"),
    ],
)
def test_options_that_open_no_run(three: tuple[Any, ...], options: dict[str, Any], sentence: str) -> None:
    required = dict(zip(("strategy", "budget", "rounds"), three, strict=True))
    with pytest.raises(InputError, match=re.escape(sentence)):
        config_of(shape_of(trainer()), "run", required, options)


def test_keywords_are_those_of_schedule_start() -> None:
    def opened_with(strategy: str, budget: int | None = 8, **options: Any) -> ScheduleConfig:
        required = {"strategy": strategy, "budget": budget, "rounds": 2}
        made = config_of(shape_of(trainer()), "run", required, options)
        assert made is not None
        return made

    made = opened_with("gain-rl", options={"sigma": "0.1N"}, reward_low=-1, rescore={"what": "full"})
    expected = ({"sigma": "0.1N"}, -1.0, RescoreConfig(what="full"))
    assert (made.options, made.reward_low, made.rescore) == expected
    assert opened_with("dots", budget=None, options={"step_prompts": 4}).budget == 8


def test_a_run_that_is_there_must_have_been_opened_with_the_same(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, options={"sigma": "0.1N", "alpha": 3}, align_to=4)
    required: dict[str, Any] = {"strategy": "gain-rl", "budget": 8, "rounds": 3, "align_to": 4}
    where = {"scored": "elsewhere", "run": run.folder}

    def wanted(**options: Any) -> ScheduleConfig:
        return ScheduleConfig(**(required | where | options))

    see_same(run, wanted())
    see_same(run, wanted(options={"alpha": 3.0}))
    with pytest.raises(InputError) as caught:
        see_same(run, wanted(budget=16, seed=1, options={"alpha": 2}))
    assert str(caught.value) == (
        f"{run.folder} was opened with budget 8, not 16; seed 0, not 1; alpha 3.0, not 2.0. Give that, "
        "only its folder, or a new folder."
    )
    with pytest.raises(InputError, match="strategy 'gain-rl', not 'uniform'"):
        see_same(run, wanted(strategy="uniform"))


def digest(messages: Any, answer: Any) -> str:
    """The definition of an id (contract 1)."""
    text = json.dumps([messages, answer], ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def run_of(folder: Path, answer: str | None = "answer", id_column: str | None = None, **added: Any) -> Run:
    """A run over a set whose identity says where its ids are from."""
    row = sets.scored_row("x", "q", 0.5, 3)
    made = sets.make_set(folder / "set", [[{**row, "gc_id": f"id{k}"} for k in range(8)]])
    scored = ScoredSet(made)
    source = {**scored.identity["source"], "prompt_column": "prompt"}
    scored.identity["source"] = source | {"answer_column": answer, "id_column": id_column}
    scored.identity["segmentation"] = {**scored.identity.get("segmentation", {}), **added}
    opened = SimpleNamespace(scored=scored, config=SimpleNamespace(bare=False, scored=made))
    return opened  # type: ignore[return-value]


TEXTS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12é")), min_size=1, max_size=12)


@given(TEXTS)
def test_rows_get_the_ids_that_a_scoring_run_would_give_them(texts: list[tuple[str, str]]) -> None:
    import tempfile

    rows = [
        {"prompt": [{"role": "user", "content": text}], "answer": answer, "other": place}
        for place, (text, answer) in enumerate(texts)
    ]
    with tempfile.TemporaryDirectory() as folder:
        found = with_ids(datasets.Dataset.from_list(rows), run_of(Path(folder)))
    expected = []
    for place, row in enumerate(rows):
        key = digest(row["prompt"], row["answer"])
        copies = sum(texts[before] == texts[place] for before in range(place))
        expected.append(f"{key}-{copies}" if copies else key)
    assert found["gc_id"] == expected
    assert found.remove_columns("gc_id").to_list() == rows


def test_rows_get_the_ids_of_their_own_column(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "same"}]
    rows = datasets.Dataset.from_list([{"prompt": chat, "name": 7}, {"prompt": chat, "name": 9}])
    assert with_ids(rows, run_of(tmp_path, None, "name"))["gc_id"] == ["7", "9"]


@pytest.mark.parametrize(
    ("row", "added", "sentence"),
    [
        ({"prompt": "q"}, {}, "and no answer to find it by"),
        ({"question": "q", "answer": "1"}, {}, "and no prompt to find it by"),
        ({"prompt": "q", "answer": "1"}, {"system": "Think."}, "scored with a system message or examples that"),
    ],
)  # fmt: skip
def test_others_get_no_ids(tmp_path: Path, row: dict[str, Any], added: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        with_ids(datasets.Dataset.from_list([row]), run_of(tmp_path, **added))


def test_the_model_is_the_one_that_the_trainer_loaded(tmp_path: Path) -> None:
    def made(**config: Any) -> Any:
        return SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(**config)))

    assert model_of(made(_name_or_path="owner/name", _commit_hash="abc")) == "owner/name@abc"
    assert model_of(made(_name_or_path="owner/name", _commit_hash=None)) == "owner/name"
    assert model_of(made(_name_or_path=str(tmp_path), _commit_hash="abc")) == str(tmp_path)
    with pytest.raises(InputError, match="was not loaded by a name"):
        model_of(made(_name_or_path=""))


@pytest.mark.slow
def test_the_script_in_the_docs_makes_a_curated_run_and_goes_on_with_it(tmp_path: Path) -> None:
    page = DOCS.read_text()
    script = page[page.index("```python\n") + 10 :].partition("```")[0]
    assert script.count("gaincurate") == 1
    assert script.count("attach(trainer") == 1
    tiny.save_model(tmp_path / "tiny")
    name = "Qwen/Qwen2.5-0.5B-Instruct"
    assert script.count(name) == 1
    (tmp_path / "train.py").write_text(script.replace(name, str(tmp_path / "tiny")))
    command = [sys.executable, "train.py"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    line = "set shuffle_dataset=False in place of TRL's default, and gave the 240 rows of train_dataset their gc_id"
    assert line in done.stderr
    run = Run(tmp_path / "run")
    assert run.state["finished"]
    assert (run.config.align_to, len(run.scored)) == (1, 240)
    for round_ in range(3):
        lines = [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]
        assert [line["gc_id"] for line in lines] == [gc_id for gc_id in run.ids(round_) for _ in range(8)]
    assert not (tmp_path / "run-scored.work").exists()
    # the same run is there now, and other options are refused before anything else
    (tmp_path / "train.py").write_text((tmp_path / "train.py").read_text().replace("budget=8", "budget=16"))
    again = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert again.returncode != 0
    assert "run was opened with budget 8, not 16" in again.stderr

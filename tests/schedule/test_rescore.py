"""Scoring anew with real scoring runs of a tiny model; in-process, but for one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import dots_runs
import runs
import tiny
from command import read_options
from command import run as gaincurate
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import spearman
from gaincurate.errors import GaincurateError, InputError, OutputError
from gaincurate.schedule import rescore
from gaincurate.schedule.config import RescoreConfig
from gaincurate.schedule.rescore import options_of, probe_rows
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Order, Run
from gaincurate.schedule.strategies.gaussian import GainRL


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The model that scored the set, and the same after some training, in a manner of speaking."""
    folder = tmp_path_factory.mktemp("models")
    made = tiny.model(transformers.LlamaConfig(**tiny.COMMON))
    found = []
    for number in range(3):
        path = folder / f"step-{number}"
        made.save_pretrained(path)
        tiny.tokenizer().save_pretrained(path)
        found.append(path)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return found


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, models: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    rows = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(60))
    system, out = "@ is a sign.\n", folder / "set"
    (folder / "system.txt").write_text(f"{system}\n")
    result = gaincurate(
        "score", rows, "-m", models[0], "-o", out, "--system", f"@{folder / 'system.txt'}", "--shard-rows", 25
    )
    assert result.exit_code == 0
    return out


@pytest.fixture(autouse=True)
def in_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    return [] if "real_command" in request.node.name else dots_runs.in_process(monkeypatch)


Opened = Callable[..., Run]


@pytest.fixture
def opened(tmp_path: Path, scored: Path) -> Opened:
    def open_run(**rescoring: Any) -> Run:
        return runs.begin(
            tmp_path, scored=scored, rounds=4, options={"sigma": "4"}, rescore=RescoreConfig(**rescoring)
        )

    return open_run


def angles(folder: Path) -> dict[str, float]:
    found = ScoredSet(folder)
    values = found.column("gc_angle").to_numpy().astype(float)
    return dict(zip(found.column("gc_id").to_pylist(), values.tolist(), strict=True))


def step(
    run: Run, checkpoint: Path | None = None, note: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    runs.report(run)
    advance(run, None if checkpoint is None else str(checkpoint), note)
    return run.plan(run.state["round"])


def test_a_rounds_prompts_give_c_by_the_checkpoint(opened: Opened, models: list[Path], scored: Path) -> None:
    run = opened(what="round", probe=0)
    ids = run.ids(0)
    plan = step(run, models[1])
    fresh = angles(run.folder / "scores/00000")
    assert set(fresh) == set(ids)
    assert plan["inputs"]["concentration"] == pytest.approx(np.mean([fresh[i] for i in ids]))
    assert plan["inputs"]["concentration"] != pytest.approx(np.mean([angles(scored)[i] for i in ids]))
    assert plan["inputs"]["concentration_from"] == plan["inputs"]["rescored"] == "scores/00000"
    assert plan["order"]["ordered_by"] == "base"
    # Scored as the set was: the same identity, but for model and source.
    old, new = ScoredSet(scored).identity, ScoredSet(run.folder / "scores/00000").identity
    assert old["segmentation"] == new["segmentation"]
    assert {k for k in old if old[k] != new[k]} == {"model", "source", "shard_rows"}


def test_a_full_rescoring_replaces_the_order(opened: Opened, models: list[Path]) -> None:
    run = opened(what="full", probe=0, every=2)
    first = step(run)
    assert first["order"]["ordered_by"] == "base"
    plan = step(run, models[2])
    fresh = angles(run.folder / "scores/00001")
    order = Order(run.folder / "order.arrow")
    ids = run.scored.column("gc_id").to_pylist()
    assert [ids[row] for row in order.rows] == sorted(ids, key=lambda i: (-np.float32(fresh[i]), i))
    assert plan["order"] == {"by": "gc_angle", "ordered_by": "scores/00001", "digest": order.digest}
    assert not run.next_order.exists()
    later = step(run)  # no re-scoring is due: C_t still comes from the newest scores
    assert later["inputs"]["concentration_from"] == "scores/00001"
    assert later["inputs"]["concentration"] == pytest.approx(np.mean([fresh[i] for i in run.ids(2)]))


def test_truncated_prompts_in_an_order_by_nll_are_scored_again(tmp_path: Path, models: list[Path]) -> None:
    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(30))
    options = ("--signals", "angle,nll,embedding", "--max-length", 60, "--on-overlong", "truncate")
    assert gaincurate("score", rows, "-m", models[0], "-o", tmp_path / "set", *options).exit_code == 0
    run = runs.begin(
        tmp_path, scored=tmp_path / "set", rounds=4, options={"sigma": "4"}, by="gc_nll",
        rescore=RescoreConfig(what="full", probe=0),
    )  # fmt: skip
    plan = step(run, models[2])
    old, fresh = ScoredSet(tmp_path / "set"), ScoredSet(run.folder / "scores/00000")
    assert fresh.identity["signals"] == ["angle", "nll"]
    assert old.manifest["truncated"] == fresh.manifest["truncated"] > 0
    assert fresh.identity["segmentation"] == old.identity["segmentation"]
    assert plan["order"]["ordered_by"] == "scores/00000"
    ids, nll = fresh.column("gc_id").to_pylist(), fresh.column("gc_nll").to_pylist()
    values = dict(zip(ids, nll, strict=True))
    order = Order(run.folder / "order.arrow")
    assert [ids[row] for row in order.rows] == sorted(ids, key=lambda i: (-values[i], i))


def test_a_window_moves_only_the_ranks_that_mu_can_reach(opened: Opened, models: list[Path]) -> None:
    run = opened(what="window", probe=0)
    before = Order(run.folder / "order.arrow")
    old_rows = before.rows.tolist()
    plan = step(run, models[2])
    after, fresh = Order(run.folder / "order.arrow"), angles(run.folder / "scores/00000")
    ids = run.scored.column("gc_id").to_pylist()
    last = 4 * (np.tanh(1.0) + np.tanh(2 * run.facts["angles"][1])) + 12  # one round up, and three sigma
    size = int(np.ceil(last)) + 1
    window = [ids[row] for row in after.rows[:size]]
    assert after.rows[size:].tolist() == old_rows[size:]
    assert sorted(after.rows[:size].tolist()) == sorted(old_rows[:size])
    assert window == sorted(window, key=lambda i: (-np.float32(fresh[i]), i))
    assert after.values[:size].tolist() == [fresh[i] for i in window]
    assert set(fresh) == {*window, *run.ids(0)}
    assert plan["inputs"]["concentration_from"] == "scores/00000"


def test_the_rounds_own_prompts_are_scored_also_outside_the_window(
    opened: Opened, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(what="window", probe=0)
    monkeypatch.setattr(GainRL, "reach", lambda selector, rounds: (0, 2))
    assert step(run, models[2])["inputs"]["concentration_from"] == "scores/00000"
    assert set(run.ids(0)) <= set(angles(run.folder / "scores/00000"))


def test_the_probe_decides_if_the_rest_is_scored(opened: Opened, models: list[Path], scored: Path) -> None:
    run = opened(what="window", probe=20, drift=1)
    said: list[str] = []
    plan = step(run, models[0], said.append)
    assert plan["inputs"]["drift"] == pytest.approx(1)
    assert (plan["inputs"]["rescored"], plan["inputs"]["concentration_from"]) == (None, "base")
    assert said == [
        f"round 0: scoring 20 prompts with {models[0]}",
        "round 0: the probe's rank correlation with the scores in use is 1.000, so the rest is not scored again",
    ]
    assert not (run.folder / "scores/00000").exists()
    plan = step(run, models[2])
    probe, old = angles(run.folder / "scores/00001-probe"), angles(scored)
    ids = run.scored.take(probe_rows(run)).column("gc_id").to_pylist()
    assert set(probe) == set(ids)
    expected = spearman([old[i] for i in ids], [probe[i] for i in ids])
    assert expected is not None
    assert expected < 0.9
    assert plan["inputs"]["drift"] == pytest.approx(expected)
    assert plan["inputs"]["rescored"] == "scores/00001"
    # From here on, probes are held against the checkpoint whose scores are in use.
    plan = step(run, models[2])
    assert plan["inputs"]["drift"] == pytest.approx(1)
    assert plan["inputs"]["concentration_from"] == "scores/00001"


def test_c_is_of_one_set_that_has_nearly_all_of_the_rounds_prompts(
    opened: Opened, models: list[Path], scored: Path
) -> None:
    run = opened(what="round", every=2)
    step(run)
    step(run, models[1])
    plan = step(run)  # none is due, and the last set has few of this round's prompts
    ids, old = run.ids(2), angles(scored)
    assert len(set(ids) & set(run.ids(1))) < 7
    assert (plan["inputs"]["concentration_from"], plan["inputs"]["concentration_over"]) == ("base", 8)
    assert plan["inputs"]["concentration"] == pytest.approx(np.mean([old[i] for i in ids]))


def test_a_set_of_a_checkpoint_that_was_trained_past_is_scored_again(
    opened: Opened, models: list[Path], in_process: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(what="full", probe=10, drift=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "commit", _killed)
        with pytest.raises(KeyboardInterrupt):
            step(run, models[1])
    # Killed in the middle of scoring, too.
    (run.folder / "scores/00000/manifest.json").unlink()
    advance(Run(run.folder), str(models[2]))
    assert len(in_process) == 4
    plan = run.plan(1)
    identity = ScoredSet(run.folder / plan["order"]["ordered_by"]).identity
    assert identity["model"]["name"] == "step-2"


def test_a_rescoring_that_is_there_is_not_done_twice(
    opened: Opened, models: list[Path], in_process: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(what="full", probe=0)
    state = run.state
    monkeypatch.setattr(Run, "commit", _killed)
    runs.report(run)
    with pytest.raises(KeyboardInterrupt):
        advance(run, str(models[1]))
    monkeypatch.undo()
    assert run.next_order.exists()
    assert run.state == state
    done = len(in_process)
    monkeypatch.setattr(rescore, "run_command", _killed)
    advance(Run(run.folder), str(models[1]))
    assert (done, run.state["ordered_by"]) == (1, "scores/00000")


def _killed(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_used_is_told(opened: Opened, models: list[Path], tmp_path: Path) -> None:
    run = opened(what="round", probe=0)
    with pytest.raises(InputError, match="a re-scoring is due after round 0 .* there is no checkpoint"):
        step(run)
    half = tmp_path / "half"
    shutil.copytree(models[1], half)
    (half / "model.safetensors").write_bytes((half / "model.safetensors").read_bytes()[:999])
    with pytest.raises(InputError, match=r"the checkpoint of round 0 cannot be used: .* is not finished\."):
        step(run, half)
    # Another tokenizer: a set of other prompts.
    other = tmp_path / "other"
    shutil.copytree(models[1], other)
    tiny.tokenizer(merges=5).save_pretrained(other)
    with pytest.raises(OutputError, match=r"has other prompts .* scored set \(gc_prompt_tokens differs"):
        step(run, other)
    shutil.rmtree(run.folder / "scores")
    no_template = tmp_path / "none"
    shutil.copytree(models[1], no_template)
    (no_template / "chat_template.jinja").unlink()
    with pytest.raises(GaincurateError, match=r"scoring the checkpoint of round 0 failed: error: .* \(log"):
        step(run, no_template)
    assert run.state["round"] == 0


def test_the_real_command_scores_a_checkpoint(opened: Opened, models: list[Path]) -> None:
    run = opened(what="round", probe=0, options=["--threads", "1"])
    assert step(run, models[1])["inputs"]["rescored"] == "scores/00000"
    assert "8 rows" in (run.round_folder(0) / "scoring.log").read_text()


def test_options_say_what_the_identity_says(tmp_path: Path) -> None:
    shots = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    segmentation = {"system": "-Be brief.", "system_override": True, "shots": shots, "max_length": 99}
    segmentation |= {"template_kwargs": {"enable_thinking": False}, "overlong": "truncate"}
    identity = {"source": {"prompt_column": "extra_info.q"}, "segmentation": segmentation}
    identity |= {"site": "final_norm", "layer": None, "inter_weight": 8.0, "dtype": "bfloat16"}
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

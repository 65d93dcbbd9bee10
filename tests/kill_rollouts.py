"""Kills local rollouts at random instants. Usage: kill_rollouts.py SCORED MODEL FOLDER KILLS. Prints one JSON object."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas  # noqa: F401 (this and the others like it: what a run imports late is paid once)
import torch._dynamo  # noqa: F401
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

from gaincurate.difficulty import local_engine  # noqa: F401
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.rollout import roll_out
from kills import kill_folders


def main(scored: Path, model: str, folder: Path, kills: int) -> dict[str, object]:
    """Compare every killed and finished set with an uninterrupted one."""

    def config(out: Path) -> RolloutConfig:
        return RolloutConfig(
            scored=scored,
            model=model,
            out=out,
            verifier="bad_verifiers:parity",
            samples=4,
            reference=14,
            max_tokens=6,
            shard_prompts=5,
            batch_tokens=250,
            verify_workers=1,
            threads=1,
            on_error="skip",
        )

    def journals(out: Path) -> int:
        return sum(path.stat().st_size for path in out.glob(".work/completions-*"))

    return kill_folders(roll_out, config, folder, kills, left=journals, earliest=0.1)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))

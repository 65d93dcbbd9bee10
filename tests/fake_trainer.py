"""A trainer for tests: reads a round's rows, writes outcomes and, if asked, a checkpoint.

Usage: fake_trainer.py [--mode MODE] [--model FOLDER] DATA ROUND CHECKPOINT OUTCOMES OUTPUT. Whether a prompt's
rollout succeeds depends on its id, the round and the sample alone, so that every run of a round reports the
same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq


def success(gc_id: str, round_: int, sample: int) -> int:
    """0 or 1, more often 1 in later rounds."""
    return int(hashlib.blake2b(f"{gc_id} {round_} {sample}".encode()).digest()[0] < 100 + 20 * round_)


def main() -> int:
    """Train, in a manner of speaking."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", default="")
    parser.add_argument("--model")
    parser.add_argument("--fail-from", type=int, default=10**6)
    parser.add_argument("--samples", type=int, default=4)
    for name in ("data", "round", "checkpoint", "outcomes", "output"):
        parser.add_argument(name)
    options = parser.parse_args()
    round_, mode = int(options.round), options.mode
    print(f"round {round_} begins with {options.checkpoint}", flush=True)
    if mode == "fail" or round_ >= options.fail_from:
        print("CUDA out of memory, say", file=sys.stderr)
        return 3
    if mode == "hang":
        while True:
            time.sleep(60)
    ids = pq.read_table(options.data).column("gc_id").to_pylist()
    if mode != "silent":
        with open(options.outcomes, "a") as file:
            for place, gc_id in enumerate(ids):
                if mode == "few" and place > 1:
                    break
                for sample in range(options.samples):
                    reward = success(gc_id, round_, sample)
                    line = {"gc_id": gc_id, "reward": reward, "round": round_, "sample": sample}
                    file.write(json.dumps(line) + "\n")
                file.flush()
                if mode == "die" and place == 1 and os.environ["GAINCURATE_ATTEMPT"] == "1":
                    file.write('{"gc_id": "half')
                    file.flush()
                    return 1
    if options.model:
        folder = Path(options.output) / f"checkpoint-{round_ + 1}"
        shutil.copytree(options.model, folder, dirs_exist_ok=True)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": round_ + 1}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

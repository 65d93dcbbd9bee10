"""The measurement in docs/difficulty.md: makes prompts, scores them, rolls them out twice, prints the tables.

Usage: python docs/studies/difficulty_real/measure.py FOLDER. Needs
`gaincurate[score,difficulty,demo]`. What is in the folder already is used, so it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import mixture
import numpy as np
import torch
import transformers
from figures import batch_table, correlation_table, made, splits, task_table
from predictors import CHEAP, Floats, World, adapter

from gaincurate.core.prompts import Message
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import matrix
from gaincurate.difficulty.prompts import read_prompts
from gaincurate.difficulty.rollout_set import pass_rates
from gaincurate.scoring.model import find_model, load_config, load_model, load_tokenizer
from gaincurate.scoring.segment import Segmented, Segmenter

MODEL, REFERENCES, ROLLOUTS = "demo", 256, 8
THREADS = 1  # another number rounds otherwise, so a few completions would be others
SAMPLING = "--temperature 0.6 --top-p 0.95 --max-tokens 12 --batch-tokens 20000"


def command(line: str, folder: Path) -> None:
    """Run `gaincurate ...` in the folder and say how long it took."""
    print(f"$ gaincurate {line}", flush=True)
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gaincurate", *shlex.split(line)], cwd=folder, check=True)
    print(f"  {time.perf_counter() - begin:.0f} s", flush=True)


def collect(folder: Path, per_task: int) -> None:
    """Prompts, scores and both sets of rollouts."""
    if not (folder / "prompts.jsonl").exists():
        mixture.main(folder, per_task)
    command(
        f"score prompts.jsonl --model {MODEL} --out scored --shots shots.json --signals angle,embedding "
        f"--threads {THREADS}",
        folder,
    )
    for seed, name in enumerate(("first", "fresh")):
        command(
            f"difficulty rollout scored --out {name} --model {MODEL} --verifier reasoning-gym "
            f"--samples {ROLLOUTS} --seed {seed} {SAMPLING} --threads {THREADS}",
            folder,
        )


def question_nll(messages: list[list[Message]]) -> Floats:
    """The mean negative log-likelihood of each question's tokens behind all that is before them, `[rows]`."""
    files = find_model(MODEL)
    model = load_model(
        files, load_config(files), device="cpu", dtype="float32", auto=transformers.AutoModelForCausalLM
    )
    parts = [part for part in Segmenter(load_tokenizer(files))(messages) if isinstance(part, Segmented)]
    assert len(parts) == len(messages)
    texts = [torch.from_numpy(part.token_ids[: part.end].astype(np.int64)) for part in parts]
    # What all prompts begin with goes through the model once, but for a token in front of the questions.
    begun = np.stack([part.token_ids[: min(part.prefix for part in parts)] for part in parts])
    same = int(np.append((begun != begun[0]).any(0), True).argmax()) - 1
    values = []
    with torch.inference_mode():
        before = model(texts[0][None, :same], use_cache=True).past_key_values
        for part, text in zip(parts, texts, strict=True):
            logits = model(text[None, same:], past_key_values=copy.deepcopy(before)).logits[0]
            asked = logits[part.prefix - 1 - same : -1]
            values.append(torch.nn.functional.cross_entropy(asked, text[part.prefix :]).item())
    return np.array(values)


def nll(scored: ScoredSet, kept: Path) -> Floats:
    """The scored set's own, or that of `question_nll`, which is kept."""
    if "gc_nll" in scored.schema.names:
        return np.array(scored.column("gc_nll").to_pylist(), float)
    if not kept.exists():
        prompts = read_prompts(scored, range(len(scored)), None)
        np.save(kept, question_nll([prompt.messages for prompt in prompts]))
    found: Floats = np.load(kept)
    return found


def successes(folder: Path, ids: list[str]) -> np.ndarray:
    """How many rollouts got the whole reward; a part of it is none."""
    table = pass_rates(folder, success=1.0)
    wins = dict(zip(table.column(ID).to_pylist(), table.column("wins").to_pylist(), strict=True))
    assert set(table.column("samples").to_pylist()) == {ROLLOUTS}
    return np.array([round(wins[gc_id]) for gc_id in ids])


def world(folder: Path) -> World:
    """All that was measured."""
    scored = ScoredSet(folder / "scored")
    table = scored.take(np.arange(len(scored)))
    ids = table.column(ID).to_pylist()
    signals = {
        "length": np.array(table.column("gc_question_tokens").to_pylist(), float),
        "gc_angle": np.array(table.column("gc_angle").to_pylist(), float),
        "NLL": nll(scored, folder / "nll.npy"),
    }
    embeddings = matrix(table.select([ID, EMBEDDING]), folder / "scored")
    task = np.array(table.column("source").to_pylist())
    first, fresh = (successes(folder / name, ids) for name in ("first", "fresh"))
    return World(task, embeddings, signals, first, fresh, ROLLOUTS)


def report(folder: Path, count: int, trained: int, epochs: int) -> None:
    """Print the tables."""
    whole = world(folder)
    print("\n".join(task_table(whole)))
    both = np.corrcoef(whole.first, whole.fresh)[0, 1]
    print(f"\nFirst and fresh pass rates: Pearson {both:.3f}, whose square root is {np.sqrt(both):.3f}.\n")
    given = list(splits(whole, REFERENCES, count))
    begin = time.perf_counter()
    failure, spread = made(whole, CHEAP, given)
    middle = time.perf_counter()
    by_training = {f"adapter, {epochs} epochs": partial(adapter, epochs=epochs)} if trained else {}
    failure_trained, spread_trained = made(whole, by_training, given[:trained])
    ended = time.perf_counter()
    print(f"{count} splits: {middle - begin:.0f} s; {trained} with training: {ended - middle:.0f} s")
    everything = {name: [values] * count for name, values in whole.signals.items()}
    everything |= failure | failure_trained
    print("\n" + "\n".join(correlation_table(whole, everything, given)))
    print("\n" + "\n".join(batch_table(whole, failure | failure_trained, spread | spread_trained, given)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, default=200, help="random sets of references")
    parser.add_argument("--trained", type=int, default=10, help="splits on which the adapter is trained")
    parser.add_argument("--epochs", type=int, default=20, help="of that training")
    options = parser.parse_args()
    collect(options.folder.resolve(), mixture.PROMPTS_PER_TASK)
    report(options.folder.resolve(), options.splits, options.trained, options.epochs)

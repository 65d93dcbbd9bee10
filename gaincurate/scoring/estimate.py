"""An estimate of a scoring run without running it: rows, tokens, finished shards, and the time.

The time is that of a trial of a few rows, scaled with the number of rows and the length of prompts, because
the cost of a prefix that prompts share is not known before the model runs. Without a trial there is no
time: a guess from the sizes of models would be wrong by more than it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gaincurate.core.artifact import Artifact
from gaincurate.core.files import temporary_folder
from gaincurate.core.locks import Split
from gaincurate.core.progress import Progress
from gaincurate.core.scored_set import SCORES, ScoredSet
from gaincurate.errors import InputError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import goes_on, score_dataset
from gaincurate.scoring.plan import Plan, make_plan
from gaincurate.scoring.readers.source import Cursor
from gaincurate.scoring.segment import Unusable
from gaincurate.scoring.summary import Summary
from gaincurate.scoring.worker import segmented

_COUNTED = 8192  # rows whose tokens are counted, in whole shards


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would do.

    `rows`, `shards` and what is `there` of these are of this part of the run; `rows_left` are to be scored.
    `tokens` of whole prompts are of the rows that are left, by `counted` rows of them, the longest of which
    has `longest`. `unusable` of the counted rows would be rejected or stop the run; `why` is the first's.
    `seconds` is None without a trial.
    """

    out: Path
    rows: int
    shards: int
    there: int
    rows_left: int
    counted: int
    tokens: int
    longest: int
    unusable: int
    why: str | None
    devices: tuple[str, ...]
    dtype: str
    seconds: float | None


def estimate(config: ScoreConfig, progress: Progress | None = None, trial: int | None = None) -> Estimate:
    """Find out what `score_dataset` would do; `--out` is left as it is.

    Args:
        config: of the run.
        progress: hears what was found.
        trial: score so many rows into a temporary folder and go by their time.

    Raises:
        InputError: what the run would refuse before it loads the weights, or workers on Ray.
        OutputError: the folder holds another run.
    """
    if config.engine == "ray":
        raise InputError("--dry-run looks at this machine alone; leave --engine ray out of it.")
    if config.reuse:
        raise InputError("--dry-run counts every row as one to score; leave --reuse out of it.")
    progress = progress or Progress()
    plan = make_plan(config, progress, Summary(config.out))
    mine, artifact = plan.own_shards(), Artifact(config.out, SCORES)
    there = mine & artifact.indexes(plan.shards) if goes_on(plan, artifact) else set[int]()
    left = sorted(mine - there)
    lengths, unusable = _count(plan, left, progress)
    rows = plan.rows_in(set(left))
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    speed = _tried(plan, trial, progress) if trial and lengths else None
    counted = len(lengths) + len(unusable)
    usable = rows * len(lengths) / counted if counted else 0.0
    seconds = None
    if speed is not None:
        loading, row_seconds, tokens = speed
        seconds = loading + row_seconds * usable * mean / tokens
    return Estimate(
        out=config.out,
        rows=plan.rows_in(mine),
        shards=len(mine),
        there=len(there),
        rows_left=rows,
        counted=counted,
        tokens=round(usable * mean),
        longest=max(lengths, default=0),
        unusable=len(unusable),
        why=unusable[0] if unusable else None,
        devices=plan.machine.devices,
        dtype=plan.machine.dtype,
        seconds=seconds,
    )


def _count(plan: Plan, shards: Sequence[int], progress: Progress) -> tuple[list[int], list[str]]:
    """Tokens of each prompt of some shards, evenly taken, and why rows among them cannot be scored."""
    many = max(1, _COUNTED // plan.config.shard_rows)
    chosen = [shards[k * len(shards) // many] for k in range(many)] if len(shards) > many else shards
    cursor, lengths, unusable = Cursor(plan.source), list[int](), list[str]()
    progress.start(plan.rows_in(set(chosen)), what="counting tokens")
    for shard in chosen:
        start, stop = plan.bounds(shard)
        for place, prompt in sorted(segmented(plan, cursor.read(start, stop)).items()):
            if isinstance(prompt, Unusable):
                unusable.append(f"row {start + place} (from 0): {prompt.reason}")
            else:
                lengths.append(len(prompt.token_ids))
        progress.advance(stop - start)
    return lengths, unusable


def _tried(plan: Plan, rows: int, progress: Progress) -> tuple[float, float, float] | None:
    """The first rows scored and thrown away, a shard of them on every device.

    Returns:
        Seconds of loading, which are for the model and for hashing the source, further seconds per row, and
        the mean tokens of a row; None where no row was scored.
    """
    limit = min(rows, plan.source.rows)
    with temporary_folder() as folder:
        changes = {"out": folder / "trial", "limit": limit, "overwrite": False, "split_run": Split()}
        changes |= {"on_error": "skip", "shard_rows": -(-limit // len(plan.machine.devices))}
        progress.loading("the model for the trial")
        summary = score_dataset(plan.config.model_copy(update=changes))
        progress.loading("")
        if not summary.scored or not summary.rows:
            return None
        tokens = ScoredSet(summary.out).column("gc_prompt_tokens").to_numpy().mean()
    loading = sum(summary.seconds.get(stage, 0.0) for stage in ("loading", "reading"))
    return loading, max(summary.elapsed - loading, 0.0) / summary.scored, float(tokens)

"""What a scoring run would do, without doing it: rows, tokens, finished shards, and how long it may take.

The time is that of a run on record on this machine, or of a trial of a few rows. It goes by rows, scaled with
the length of prompts, because what a prefix that prompts share costs is not known before the model runs.
Without either there is no time: a guess from the sizes of models would be wrong by more than it says.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.artifact import EXECUTION, Artifact, Json, open_table
from gaincurate.core.files import log_lines, temporary_folder
from gaincurate.core.locks import Split
from gaincurate.core.progress import Progress
from gaincurate.core.scored_set import SCORES
from gaincurate.errors import GaincurateError, InputError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import goes_on, score_dataset
from gaincurate.scoring.plan import Plan, make_plan
from gaincurate.scoring.readers.source import Cursor
from gaincurate.scoring.segment import Unusable
from gaincurate.scoring.summary import Summary
from gaincurate.scoring.worker import segmented

_COUNTED = 8192  # rows whose tokens are counted, in whole shards
_TOKENS = "gc_prompt_tokens"
# What a set may differ in and still be scored at the same speed.
_ANY = {"source", "tokenizer", "segmentation", "inter_weight", "shard_rows", "versions", "logits_memory"}


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast rows were scored: so many seconds per row of `tokens` on average, beside those of `loading`.

    These are for the model and for the source, which is hashed whole for a few rows too.
    """

    basis: str
    loading: float
    row_seconds: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would do.

    `rows`, `shards` and what is `there` of these are of this part of the run; `rows_left` are to be scored.
    `tokens` of whole prompts are of the rows that are left, by `counted` rows of them, the longest of which
    has `longest`. `unusable` of the counted rows would be rejected or stop the run; `why` is the first's.
    `seconds` is None where nothing says how fast this machine is.
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
    basis: str | None


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
    speed = (_tried(plan, trial, progress) if trial else _on_record(plan)) if lengths else None
    counted = len(lengths) + len(unusable)
    usable = rows * len(lengths) / counted if counted else 0.0
    seconds = None
    if speed is not None:
        seconds = speed.loading + speed.row_seconds * usable * mean / speed.tokens
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
        basis=None if speed is None else speed.basis,
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


def _on_record(plan: Plan) -> Speed | None:
    """The speed of the last run that is like this one, of the set itself or of one beside it."""
    out = Artifact(plan.config.out, SCORES).folder
    beside = sorted(path.parent for path in out.absolute().parent.glob(f"*/{EXECUTION}"))
    runs = [run for folder in beside for run in _runs(folder, plan)]
    return max(runs, key=lambda run: run[0])[1] if runs else None


def _runs(folder: Path, plan: Plan) -> Iterator[tuple[float, Speed]]:
    """When runs like this one ended that wrote into a folder, and how fast they were."""
    tokens: float | None = None
    try:
        identity = Artifact(folder, SCORES).read_identity()
        if identity is None or _speed_facts(identity) != _speed_facts(plan.identity):
            return
        for line in log_lines(folder / EXECUTION):
            if line.get("host") != platform.node() or line.get("engine", "local") != "local":
                continue
            if line["devices"] != list(plan.machine.devices):
                continue
            tokens = _mean_tokens(folder) if tokens is None else tokens
            if speed := _speed(line, tokens, f"the run that wrote {folder.name}"):
                yield line["ended"], speed
    except (GaincurateError, OSError, LookupError, pa.ArrowException):
        return  # a set that is broken is no ground for an estimate, and no concern of this run


def _speed_facts(identity: Json) -> Json:
    return {key: value for key, value in identity.items() if key not in _ANY}


def _mean_tokens(folder: Path) -> float:
    """Of a set's prompts; 0 where it has none."""
    tokens = rows = 0
    for path in sorted(folder.glob("shard-*.arrow")):
        table = open_table(path)
        tokens += pc.sum(table.column(_TOKENS)).as_py() or 0
        rows += len(table)
    return tokens / rows if rows else 0.0


def _speed(line: dict[str, Any], tokens: float, basis: str) -> Speed | None:
    """What a line of `execution.jsonl` says; None where it scored no row."""
    if not line["scored"] or tokens <= 0:
        return None
    loading = sum(float(line["seconds"].get(stage, 0.0)) for stage in ("loading", "reading"))
    return Speed(basis, loading, max(line["elapsed"] - loading, 0.0) / line["scored"], tokens)


def _tried(plan: Plan, rows: int, progress: Progress) -> Speed | None:
    """The speed of the first rows, which are scored and thrown away; every device has a shard of them."""
    limit = min(rows, plan.source.rows)
    with temporary_folder() as folder:
        changes = {"out": folder / "trial", "limit": limit, "overwrite": False, "split_run": Split()}
        changes |= {"on_error": "skip", "shard_rows": -(-limit // len(plan.machine.devices))}
        progress.loading("the model for the trial")
        summary = score_dataset(plan.config.model_copy(update=changes))
        progress.loading("")
        records = log_lines(summary.out / EXECUTION)
        if not records:  # a full disk took none
            return None
        return _speed(records[-1], _mean_tokens(summary.out), f"a trial of the first {limit:,} rows")

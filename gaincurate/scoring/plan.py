"""All that is settled before weights are loaded: the source, its columns, the tokenizer, the identity.

What a user can get wrong in the options is refused here, in seconds and not after minutes of loading. Nothing
is written yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from gaincurate.core.artifact import Json, shard_count
from gaincurate.core.progress import Progress
from gaincurate.core.prompts import Columns
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.source_columns import find_columns
from gaincurate.core.store import Remote, located
from gaincurate.errors import InputError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.identity import Machine, ScoringModel, make_identity, open_model, resolve_machine
from gaincurate.scoring.readers.source import Source, open_source
from gaincurate.scoring.reuse import Reused


@dataclass(slots=True)
class Summary:
    """How a run went. `complete` is False while other `--shard I/N` runs are still to finish.

    `shards` (that were missing), `scored`, `tokens` (computed, without padding) and `elapsed` seconds are of
    this process. `rows`, `rejected`, `truncated`, `rows_without_prefix`, `zero_vectors` (scored tokens
    without a direction), `reused` (rows with the scores of other sets; None in a run without `--reuse`) and
    `spearman_length` (rank correlation of `gc_angle` with the question's tokens) are of the finished set.
    """

    out: Path
    complete: bool = False
    shards: int = 0
    scored: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    rows: int | None = None
    rejected: int | None = None
    truncated: int | None = None
    rows_without_prefix: int | None = None
    zero_vectors: int | None = None
    reused: int | None = None
    spearman_length: float | None = None

    def count(self, counts: Mapping[str, int]) -> None:
        """Add what a worker counted, by name."""
        self.scored += counts["units"] - counts.get("reused", 0)
        self.tokens += counts["tokens"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run with checked inputs.

    `model` is None in a process that only drives workers, `reused` in a run without `--reuse`.
    """

    config: ScoreConfig
    machine: Machine
    source: Source
    columns: Columns
    identity: Json
    model: ScoringModel | None = None
    reused: Reused | None = None

    @property
    def shards(self) -> int:
        """How many shards the whole set has."""
        return shard_count(self.source.rows, self.config.shard_rows)

    @property
    def mine(self) -> set[int]:
        """The shards of this part of the run (`--shard`)."""
        return set(range(self.config.split_run.index - 1, self.shards, self.config.split_run.count))

    def bounds(self, shard: int) -> tuple[int, int]:
        """First source row of a shard and the row after its last; of the source alone, not of the run."""
        start = shard * self.config.shard_rows
        return start, min(start + self.config.shard_rows, self.source.rows)

    def rows_in(self, shards: Set[int]) -> int:
        """Source rows in these shards."""
        return sum(stop - start for start, stop in map(self.bounds, shards))


def open_data(config: ScoreConfig, progress: Progress) -> tuple[Source, Columns]:
    """Open the source and find its columns; notes go to `progress`.

    Raises:
        InputError: it is not right, or --overwrite cannot be.
    """
    if config.overwrite and config.split_run.count > 1:
        raise InputError(
            "--overwrite and --shard do not go together: each process would delete the others' "
            "shards. Delete the folder first."
        )
    source = open_source(config.data, split=config.split, limit=config.limit)
    columns = find_columns(
        source.schema,
        source.first(),
        prompt=config.prompt_column,
        answer=config.answer_column,
        id_column=config.id_column,
        tools=config.tools_column,
    )
    if config.overwrite:
        paths = [reader.path for reader in source.readers]
        for path in [*paths, *map(located, [config.data, *config.reuse])]:
            if _inside(config.out, path):
                raise InputError(
                    f"--overwrite would delete {path}, which this run reads. Give another --out."
                )
    for reader in source.readers:
        for note in reader.notes:
            progress.note(note)
    progress.note(f"{source.name}: {source.rows:,} row{'s' * (source.rows != 1)}; {columns.note}")
    return source, columns


def _inside(folder: Path, path: Path) -> bool:
    if isinstance(path, Remote):
        return isinstance(folder, Remote) and path.is_relative_to(folder)
    return path.exists() and path.resolve().is_relative_to(folder.resolve())


def make_plan(config: ScoreConfig, progress: Progress) -> Plan:
    """Open the source, find the model, its tokenizer and template, and settle what is `auto`.

    Raises:
        InputError: any of these is not right.
    """
    machine = resolve_machine(config)
    source, columns = open_data(config, progress)
    model = open_model(config, machine, progress)
    if columns.tools and not model.segmenter.renders_tools:
        progress.note("this model's chat template renders no tools, so scores are without them")
    identity = make_identity(config, source, columns, model, machine)
    reused = None
    if config.reuse:
        sets = [ScoredSet(place) for place in config.reuse]
        identity["reuse"] = [scored.manifest_hash for scored in sets]
        reused = Reused(sets, identity, columns, progress)
    return Plan(config, machine, source, columns, identity, model, reused)

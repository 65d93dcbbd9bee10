"""All that is settled before weights are loaded: the source, its columns, the tokenizer, the identity.

What a user can get wrong in the options is refused here, in seconds and not after minutes of loading. Nothing
is written yet.

With `--reuse`, a row takes its scores from a finished set that has a row with its id and its prompt, if all
that makes a score is equal. The values are copied bit by bit. They can differ in the last bits from what this
run would compute, because a prompt's neighbours in a batch change the rounding. So the run's identity names
the sets by their manifests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from gaincurate.core.artifact import Json, read_info, shard_count
from gaincurate.core.files import differing_keys
from gaincurate.core.progress import Progress
from gaincurate.core.prompts import Columns
from gaincurate.core.schema import EMBEDDING, ID, PREFIX, SCORE_FIELDS, Score, signal_fields, take
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.source_columns import find_columns
from gaincurate.core.store import Remote, located
from gaincurate.errors import InputError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.differences import differences
from gaincurate.scoring.identity import (
    Machine,
    ScoringModel,
    make_identity,
    model_max_length,
    resolve_machine,
)
from gaincurate.scoring.model import find_model, gguf_doubt, load_config, load_tokenizer
from gaincurate.scoring.readers.source import Source, open_source
from gaincurate.scoring.segment import Segmenter
from gaincurate_kernels import resolve_backend


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


# Which rows there are, and how they lie in shards and chunks; signals are compared one by one.
_ROWS = {"source", "shard_rows", "signals", "reuse", "logits_memory"}


class Reused:
    """The scores of finished sets, by id and prompt. A row that several sets have is the first one's.

    Args:
        sets: opened.
        identity: of the run.
        columns: of the run's source.
        progress: hears which set lacks a signal. The rows of such a set are scored again.

    Raises:
        InputError: a set was made by another model, prompt rendering, dtype or other option.
    """

    def __init__(
        self, sets: Iterable[ScoredSet], identity: Json, columns: Columns, progress: Progress
    ) -> None:
        self._columns = columns
        fields = (*SCORE_FIELDS[1:], *signal_fields(identity["signals"], 1))
        self._names = [field.name for field in fields]
        self._sets: list[tuple[ScoredSet, pa.Array]] = []
        self.prefills: set[str] = set()
        """The forwards that made the scores, by name."""
        self.norm_was_fused = False
        for scored in sets:
            _refuse_other(scored, identity)
            lacking = [name for name in identity["signals"] if name not in scored.identity["signals"]]
            if lacking:
                lacked = " and no ".join(lacking)
                progress.note(
                    f"--reuse {scored.place}: the set has no {lacked}, so its rows are scored again"
                )
                continue
            self._sets.append((scored, _ids(scored)))
            self.prefills |= set(scored.manifest["prefill"].split("+"))
            self.norm_was_fused |= scored.manifest["norm_was_fused"]

    def of(self, table: pa.Table, ids: Sequence[str], places: Iterable[int]) -> dict[int, Score]:
        """The scores of the rows that the sets have, by place.

        Args:
            table: rows of the source.
            ids: of all rows of the table.
            places: the rows to look for.
        """
        scores: dict[int, Score] = {}
        wanted = pa.array(ids, pa.string())
        for scored, its_ids in self._sets:
            matches = pc.index_in(wanted, value_set=its_ids).to_pylist()
            here = [place for place in places if place not in scores and matches[place] is not None]
            if not here:
                continue
            old = scored.take([matches[place] for place in here])
            chats = self._columns.chats(take(table, pa.array(here, pa.int64())))
            old_chats = Columns.of(scored.identity).chats(old)
            for place, chat, old_chat, score in zip(here, chats, old_chats, self._scores(old), strict=True):
                if chat == old_chat:  # an id of a column says nothing of the text
                    scores[place] = score
        return scores

    def _scores(self, rows: pa.Table) -> Iterator[Score]:
        columns: dict[str, Any] = {
            name.removeprefix(PREFIX): rows.column(name).to_pylist()
            for name in self._names
            if name != EMBEDDING
        }
        if EMBEDDING in self._names:
            vectors = rows.column(EMBEDDING).combine_chunks().flatten().to_numpy()
            columns["embedding"] = vectors.reshape(len(rows), -1)
        for values in zip(*columns.values(), strict=True):
            yield Score(**dict(zip(columns, values, strict=True)))


def _ids(scored: ScoredSet) -> pa.Array:
    """The ids of the rows; null in a shard with zero vectors, which are counted by shard and not by row."""
    parts = []
    for entry, table in zip(scored.manifest["shards"], scored.tables([ID]), strict=True):
        counted = scored.manifest["zero_vectors"] and read_info(scored.folder / entry["file"])["zero_vectors"]
        ids = table.column(ID).combine_chunks()
        parts.append(pa.nulls(len(ids), ids.type) if counted else ids)
    return pa.concat_arrays(parts)


def _refuse_other(scored: ScoredSet, identity: Json) -> None:
    old, new = (
        {key: value for key, value in each.items() if key not in _ROWS}
        | {"model": each["model"]["weights"]}  # a model that was moved or renamed is the same
        for each in (scored.identity, identity)
    )
    if changes := list(differing_keys(old, new)):
        raise InputError(
            f"{differences(changes)}: this run would not give the scores of --reuse {scored.place}. Repeat "
            "the options of that set, or leave --reuse out and score every row.",
            keys=[key for key, _, _ in changes],
            details=changes,
        )


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

    def own_shards(self) -> set[int]:
        """The shards of this part of the run (`--shard`)."""
        return set(range(self.config.split_run.index - 1, self.shards, self.config.split_run.count))

    def bounds(self, shard: int) -> tuple[int, int]:
        """First source row of a shard and the row after its last; of the source alone, not of the run."""
        start = shard * self.config.shard_rows
        return start, min(start + self.config.shard_rows, self.source.rows)

    def rows_in(self, shards: set[int]) -> int:
        """Source rows in these shards."""
        return sum(stop - start for start, stop in map(self.bounds, shards))


def open_data(config: ScoreConfig, progress: Progress) -> tuple[Source, Columns]:
    """Open the source and find its columns.

    Args:
        config: of the run.
        progress: hears what was found.

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
    paths = [reader.path for reader in source.readers]
    for path in [*paths, *map(located, [config.data, *config.reuse])] if config.overwrite else ():
        if _inside(config.out, path):
            raise InputError(f"--overwrite would delete {path}, which this run reads. Give another --out.")
    for note in (note for reader in source.readers for note in reader.notes):
        progress.note(note)
    progress.note(f"{source.name}: {source.rows:,} row{'s' * (source.rows != 1)}; {columns.note}")
    return source, columns


def _inside(folder: Path, path: Path) -> bool:
    if isinstance(path, Remote):
        return isinstance(folder, Remote) and path.is_relative_to(folder)
    return path.exists() and path.resolve().is_relative_to(folder.resolve())


def make_plan(config: ScoreConfig, progress: Progress) -> Plan:
    """Open the source, find the model, its tokenizer and template, and settle what is `auto`.

    Args:
        config: of the run.
        progress: hears what was found.

    Raises:
        InputError: any of these is not right.
    """
    machine = resolve_machine(config)
    source, columns = open_data(config, progress)
    files = find_model(
        config.model, allow_pickle=config.allow_pickle, trust_remote_code=config.trust_remote_code
    )
    model_config, tokenizer = load_config(files), load_tokenizer(files)
    if doubt := gguf_doubt(files):
        progress.note(doubt)
    limit, text = model_max_length(model_config), model_config.get_text_config(decoder=True)
    if limit and config.max_length and config.max_length > limit:
        raise InputError(
            f"--max-length {config.max_length} is over the {limit} positions that {config.model} was "
            "made for; its states after them mean nothing."
        )
    max_length = config.max_length or limit
    segmenter = Segmenter(
        tokenizer,
        system=config.system,
        system_override=config.system_override,
        shots=config.shots,
        template_kwargs=config.template_kwargs,
        max_length=max_length,
        truncate=config.on_overlong == "truncate",
        vocab_size=text.vocab_size,
        tails="entropy" in config.signals,
    )
    if columns.tools and not segmenter.renders_tools:
        progress.note("this model's chat template renders no tools, so scores are without them")
    try:
        backend = resolve_backend(
            config.backend,
            device=machine.type,
            hidden=text.hidden_size,
            dtype=getattr(torch, machine.dtype),
        )
    except ValueError as error:
        raise InputError(f"--{error}. Leave --backend out to take what works here.") from error
    model = ScoringModel(files, model_config, tokenizer, segmenter, backend, max_length)
    identity = make_identity(config, source, columns, model, machine)
    reused = None
    if config.reuse:
        sets = [ScoredSet(place) for place in config.reuse]
        identity["reuse"] = [scored.manifest_hash for scored in sets]
        reused = Reused(sets, identity, columns, progress)
    return Plan(config, machine, source, columns, identity, model, reused)

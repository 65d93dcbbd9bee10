"""All that is settled before weights are loaded: the source, its columns, the tokenizer, the identity.

What a user can get wrong in the options is refused here, in seconds and not after minutes of loading. Nothing
is written yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gaincurate.core.artifact import Json, shard_count
from gaincurate.core.progress import Progress
from gaincurate.core.prompts import Columns
from gaincurate.core.source_columns import find_columns
from gaincurate.core.store import Remote, located
from gaincurate.errors import InputError
from gaincurate.scoring.config import ScoreConfig, check_shots
from gaincurate.scoring.identity import (
    Machine,
    choose_backend,
    make_identity,
    model_max_length,
    resolve_machine,
)
from gaincurate.scoring.lm_head import chunk_rows
from gaincurate.scoring.model import ModelFiles, find_model, gguf_doubt, load_config, load_tokenizer
from gaincurate.scoring.readers.source import Source, open_source
from gaincurate.scoring.reuse import Reused, open_reused
from gaincurate.scoring.segment import Segmenter
from gaincurate.scoring.summary import Summary


@dataclass(frozen=True, slots=True)
class ScoringModel:
    """A model as far as it is known without its weights."""

    files: ModelFiles
    config: Any
    segmenter: Segmenter
    backend: Literal["triton", "torch"]


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
        return {shard for shard in range(self.shards) if self.config.split_run.owns(shard)}

    def bounds(self, shard: int) -> tuple[int, int]:
        """First source row of a shard and the row after its last; of the source alone, not of the run."""
        start = shard * self.config.shard_rows
        return start, min(start + self.config.shard_rows, self.source.rows)

    def rows_in(self, shards: set[int]) -> int:
        """Source rows in these shards."""
        return sum(stop - start for start, stop in map(self.bounds, shards))


def open_data(config: ScoreConfig, progress: Progress, summary: Summary) -> tuple[Source, Columns]:
    """Open the source and find its columns.

    Args:
        config: of the run.
        progress: hears what was found.
        summary: its time is counted here.

    Raises:
        InputError: it is not right, or --overwrite cannot be.
    """
    if config.overwrite and config.split_run.count > 1:
        raise InputError(
            "--overwrite and --shard do not go together: each process would delete the others' "
            "shards. Delete the folder first."
        )
    with summary.timed("reading"):
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


def make_plan(config: ScoreConfig, progress: Progress, summary: Summary) -> Plan:
    """Open the source, find the model, its tokenizer and template, and settle what is `auto`.

    Args:
        config: of the run.
        progress: hears what was found.
        summary: times are counted here.

    Raises:
        InputError: any of these is not right.
    """
    shots = check_shots(config.shots, "")
    machine = resolve_machine(config)
    source, columns = open_data(config, progress, summary)
    with summary.timed("loading"):
        files = find_model(
            config.model,
            allow_pickle=config.allow_pickle,
            trust_remote_code=config.trust_remote_code,
        )
        model_config = load_config(files)
        tokenizer = load_tokenizer(files)
        if doubt := gguf_doubt(files):
            progress.note(doubt)
        max_length = _max_length(config, model_config)
        vocabulary = model_config.get_text_config(decoder=True).vocab_size
        if config.needs_head:
            # Refuses too little memory before weights are loaded.
            chunk_rows(config.logits_memory, vocabulary)
        segmenter = Segmenter(
            tokenizer,
            system=config.system,
            system_override=config.system_override,
            shots=shots,
            template_kwargs=config.template_kwargs,
            max_length=max_length,
            truncate=config.on_overlong == "truncate",
            vocab_size=vocabulary,
            tails="entropy" in config.signals,
        )
        if columns.tools and not segmenter.renders_tools:
            progress.note("this model's chat template renders no tools, so scores are without them")
        model = ScoringModel(files, model_config, segmenter, choose_backend(config, machine, model_config))
        identity = make_identity(
            config,
            source=source,
            columns=columns,
            files=files,
            model_config=model_config,
            tokenizer=tokenizer,
            segmenter=segmenter,
            machine=machine,
            backend=model.backend,
            max_length=max_length,
        )
        reused = None
        if config.reuse:
            sets = open_reused(config.reuse)
            identity["reuse"] = [scored.manifest_hash for scored in sets]
            reused = Reused(sets, identity, columns, progress)
    return Plan(config, machine, source, columns, identity, model, reused)


def _inside(folder: Path, path: Path) -> bool:
    if isinstance(path, Remote):
        return isinstance(folder, Remote) and path.is_relative_to(folder)
    return path.exists() and path.resolve().is_relative_to(folder.resolve())


def _max_length(config: ScoreConfig, model_config: Any) -> int | None:
    limit = model_max_length(model_config)
    if config.max_length is None or limit is None:
        return config.max_length or limit
    if config.max_length > limit:
        raise InputError(
            f"--max-length {config.max_length} is over the {limit} positions that {config.model} was "
            "made for; its states after them mean nothing."
        )
    return config.max_length

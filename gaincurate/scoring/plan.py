"""The state of a run before weights are loaded: the source, its columns, the tokenizer, the identity.

Wrong options are refused here, in seconds, instead of after minutes of loading. Nothing is written.

The identity has every setting that can change a value. It is stored in each file and compared on resume.
Paths, times and process counts are left out. The kind of CPU, the batch size and the thread count are
included, because they change the order of additions and so the last bits.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import gaincurate
from gaincurate.core.artifact import Json
from gaincurate.core.progress import Progress
from gaincurate.core.prompts import Columns
from gaincurate.core.schema import FORMAT
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.source_columns import find_columns
from gaincurate.core.store import Remote, located
from gaincurate.errors import InputError, ModelError
from gaincurate.scoring.config import DEVICE, MachineConfig, ScoreConfig
from gaincurate.scoring.model import (
    ModelFiles,
    find_model,
    gguf_doubt,
    load_config,
    load_tokenizer,
    tokenizer_fingerprint,
)
from gaincurate.scoring.readers.source import Source, open_source
from gaincurate.scoring.reuse import Reused
from gaincurate.scoring.segment import RULE, Segmenter
from gaincurate.scoring.signals import LOGITS_MEMORY
from gaincurate_kernels import resolve_backend, triton_version

_RENDERING = {"system", "system_override", "shots", "template_kwargs"}  # options of a prompt's rendering
_CPU_BATCH_TOKENS = 1024  # a CPU's rate no longer grows from 512 on
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow")


@dataclass(slots=True)
class Summary:
    """The result of a run. `complete` is False while other `--shard I/N` runs are unfinished.

    Of this process: the `shards` that were missing, the rows it `scored`, the `tokens` it computed (without
    padding), and the `elapsed` seconds. Of the finished set, None before: `rows`, `rejected`, `truncated`,
    `rows_without_prefix`, `zero_vectors` (scored tokens without a direction), `reused` (rows with scores of
    other sets; None without `--reuse`), `spearman_length` (rank correlation of `gc_angle` and length).
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
class Machine:
    """The resolved device, dtype, threads and batch size."""

    devices: tuple[str, ...]  # one for each process of the run; all of one kind
    kind: str
    dtype: str
    threads: int | None  # of each process; None on a GPU
    batch_tokens: int

    @property
    def type(self) -> str:
        """`cpu` or `cuda`."""
        return self.devices[0].partition(":")[0]


@dataclass(frozen=True, slots=True)
class ScoringModel:
    """A model without its weights."""

    files: ModelFiles
    config: Any
    segmenter: Segmenter
    backend: Literal["triton", "torch"]


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """A scoring run with checked inputs."""

    config: ScoreConfig
    machine: Machine
    source: Source
    columns: Columns
    identity: Json
    model: ScoringModel | None = None  # None in a process that only drives workers
    reused: Reused | None = None  # None without `--reuse`

    @property
    def shards(self) -> int:
        """How many shards the whole set has."""
        return -(-self.source.rows // self.config.shard_rows)

    @property
    def mine(self) -> set[int]:
        """The shards of this part of the run (`--shard`)."""
        return set(range(self.config.split_run.index - 1, self.shards, self.config.split_run.count))

    def bounds(self, shard: int) -> tuple[int, int]:
        """First source row of a shard and the row after its last."""
        start = shard * self.config.shard_rows
        return start, min(start + self.config.shard_rows, self.source.rows)

    def rows_in(self, shards: Set[int]) -> int:
        """Source rows in these shards."""
        return sum(stop - start for start, stop in map(self.bounds, shards))


def make_plan(config: ScoreConfig, progress: Progress) -> ScoringPlan:
    """Open the source, find the model, its tokenizer and template, and resolve every `auto`.

    Raises:
        InputError: an option, the source or the model is not valid.
    """
    machine = resolve_machine(config)
    source, columns = open_data(config, progress)
    model = open_model(config, machine, progress)
    if columns.tools and not model.segmenter.renders_tools:
        progress.note("this model's chat template renders no tools, so scores do not depend on them")
    identity = make_identity(config, source, columns, model, machine)
    reused = None
    if config.reuse:
        sets = [ScoredSet(place) for place in config.reuse]
        identity["reuse"] = [scored.manifest_hash for scored in sets]
        reused = Reused(sets, identity, columns, progress)
    return ScoringPlan(config, machine, source, columns, identity, model, reused)


def resolve_machine(config: MachineConfig) -> Machine:
    """Resolve every `auto` of the device, dtype, threads, workers and batch size.

    Raises:
        InputError: this machine does not have the device or does not support the dtype.
    """
    device, dtype, batch_tokens = config.device, config.dtype, config.batch_tokens
    workers = config.workers if isinstance(config.workers, int) else None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not DEVICE.fullmatch(device):
        raise InputError(f"--device {config.device}: expected auto, cpu, cuda or cuda:N.")
    if device == "cpu":
        if dtype == "float16":
            raise InputError("--dtype float16 is for GPUs; on a CPU use float32 or bfloat16.")
        devices = (device,) * (workers or 1)
        # Instruction sets round differently, so the identity has the kind of CPU.
        kind = f"cpu {torch.backends.cpu.get_cpu_capability()}"
        threads = config.threads or max(1, torch.get_num_threads() // len(devices))
        dtype = "float32" if dtype == "auto" else dtype
        return Machine(devices, kind, dtype, threads, batch_tokens or _CPU_BATCH_TOKENS)
    count = torch.cuda.device_count()
    if int(device.partition(":")[2] or 0) >= count:
        raise InputError(
            f"--device {config.device}: this machine has {count} CUDA devices that torch can use; "
            "leave out --device to take what there is, or check the driver and the torch build."
        )
    if dtype == "auto":
        dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    kind, alike = torch.cuda.get_device_name(device), [device]
    if device == "cuda":  # all devices of the first one's kind
        names = [torch.cuda.get_device_name(index) for index in range(count)]
        alike = [f"cuda:{index}" for index, name in enumerate(names) if name == names[0]]
    if workers is not None and workers > len(alike):
        raise InputError(
            f"--workers {workers}: there are {len(alike)} devices of this kind to use; a GPU has one worker."
        )
    if not batch_tokens:  # 512 for each GiB of the device's memory, rounded down to a power of two
        gib = int(torch.cuda.get_device_properties(device).total_memory) >> 30
        batch_tokens = min(max(512 << (max(gib, 1).bit_length() - 1), 2048), 65536)
    return Machine(tuple(alike[:workers]), kind, dtype, None, batch_tokens)


def open_data(config: ScoreConfig, progress: Progress) -> tuple[Source, Columns]:
    """Open the source and find its columns; notes go to `progress`.

    Raises:
        InputError: the source or a column is not valid, or `--overwrite` would delete an input.
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
            inside = isinstance(config.out, Remote) and path.is_relative_to(config.out)
            if not isinstance(path, Remote):
                inside = path.exists() and path.resolve().is_relative_to(config.out.resolve())
            if inside:
                raise InputError(
                    f"--overwrite would delete {path}, which this run reads. Give another --out."
                )
    for note in (note for reader in source.readers for note in reader.notes):
        progress.note(note)
    progress.note(f"{source.name}: {source.rows:,} row{'s' * (source.rows != 1)}; {columns.note}")
    return source, columns


def model_max_length(model_config: Any) -> int | None:
    """The number of positions that the model was trained for; None if its configuration has none."""
    limit = getattr(model_config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(limit) if limit else None


def open_model(config: ScoreConfig, machine: Machine, progress: Progress) -> ScoringModel:
    """Find the model and read everything except its weights.

    Raises:
        InputError: the model is not valid, or an option does not fit it.
    """
    files = find_model(
        config.model, allow_pickle=config.allow_pickle, trust_remote_code=config.trust_remote_code
    )
    model_config, tokenizer = load_config(files), load_tokenizer(files)
    if doubt := gguf_doubt(files):
        progress.note(doubt)
    limit, text_config = model_max_length(model_config), model_config.get_text_config(decoder=True)
    if limit and config.max_length and config.max_length > limit:
        raise InputError(
            f"--max-length {config.max_length} is over the {limit} positions that {config.model} was "
            "trained for; its states after them are meaningless."
        )
    segmenter = Segmenter(
        tokenizer,
        **config.model_dump(include=_RENDERING),
        max_length=config.max_length or limit,
        truncate=config.on_overlong == "truncate",
        vocab_size=text_config.vocab_size,
        tails="entropy" in config.signals,
    )
    try:
        dtype, hidden = getattr(torch, machine.dtype), text_config.hidden_size
        backend = resolve_backend(config.backend, device=machine.type, hidden=hidden, dtype=dtype)
    except ValueError as error:
        raise InputError(f"--{error}. Leave --backend out to take what works here.") from error
    return ScoringModel(files, model_config, segmenter, backend)


def make_identity(
    config: ScoreConfig, source: Source, columns: Columns, model: ScoringModel, machine: Machine
) -> Json:
    """The identity of a run; raises an InputError if the model does not have the layer."""
    layer = None
    if config.site == "mlp_input":
        depth = model.config.get_text_config(decoder=True).num_hidden_layers
        if not -depth <= config.layer < depth:
            raise ModelError(
                f"--layer {config.layer}: the model has layers 0 to {depth - 1} (or -{depth} to -1)."
            )
        layer = config.layer % depth
    elif config.layer != -1:
        raise InputError(
            f"--layer {config.layer} goes with --site mlp_input; final_norm comes after the last layer."
        )
    # Without the local build tag (2.13.0+cpu), which names the wheel; `device` names the hardware.
    libraries = (*LIBRARIES, "gguf") if model.files.gguf else LIBRARIES
    installed = {name: importlib.metadata.version(name) for name in libraries}
    if model.backend == "triton":
        installed["triton"] = str(triton_version())  # its compiler decides the order of additions
    versions = {name: version.partition("+")[0] for name, version in installed.items()}
    return {
        "format": FORMAT,
        "source": {"fingerprint": source.fingerprint, "rows": source.rows, "split": config.split}
        | columns.identity(),
        "model": model.files.fingerprint(),
        "tokenizer": tokenizer_fingerprint(model.segmenter.tokenizer, model.files),
        "segmentation": {
            "rule": RULE,
            "rendering": model.segmenter.fingerprint,
            **config.model_dump(include=_RENDERING),
            "max_length": model.segmenter.max_length,
            "overlong": "truncate" if config.on_overlong == "truncate" else "refuse",
        },
        "site": config.site,
        "layer": layer,
        # The rules of this version. The angle code applies an RMS norm before the scored tensor. Prompts are
        # packed, a prefix that two prompts of a shard share is computed once, and a CPU multiplies from
        # laid-out weights, unless this differs from the model's own forward. Each shard names its forward.
        "fused_norm": "rms",
        "prefill": "packed/3",
        "signals": list(config.signals),
        # It sets how many positions the head takes at a time, which changes the last bits.
        **({"logits_memory": LOGITS_MEMORY} if config.needs_head else {}),
        "inter_weight": config.inter_weight,
        "dtype": machine.dtype,
        "device": machine.kind,
        "backend": model.backend,
        "threads": machine.threads,
        "batch_tokens": machine.batch_tokens,
        "shard_rows": config.shard_rows,
        "versions": {"gaincurate": gaincurate.__version__, **versions},
    }

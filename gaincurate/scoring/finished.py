"""Answers `score` on a finished set without torch: what was asked is compared, not what comes out of it.

The identity of a run needs the tokenizer and the hashes of weights, which takes many seconds to find out. So
each finished run leaves a digest of what it was asked in `execution.jsonl`: options, sizes and times of all
files, versions, machine and day (a template may write the date). Where any differs, `score` looks closely.
"""

from __future__ import annotations

import glob
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from gaincurate import __version__
from gaincurate.core.artifact import EXECUTION, MANIFEST, Artifact, Json
from gaincurate.core.files import digest_json, fitting_lines
from gaincurate.core.manifest import Document
from gaincurate.core.scored_set import SCORES, ScoredSet
from gaincurate.core.stats import spearman
from gaincurate.errors import GaincurateError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.model_files import locate_model, place_of
from gaincurate.scoring.summary import Summary

_LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pyarrow", "gguf", "triton")
_SETTINGS = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY")


class _Line(Document):
    """Of `execution.jsonl`."""

    asked: str | None = None


def answer(config: ScoreConfig) -> Summary | None:
    """The summary of a finished set that was asked for in the same way; None where it needs a closer look."""
    artifact = Artifact(config.out, SCORES)
    if config.overwrite or artifact.remote or not artifact.finished:
        return None
    asked = asked_of(config)
    try:
        lines = list(fitting_lines(config.out / EXECUTION, _Line))
        if asked is None or not lines or asked != lines[-1].get("asked"):
            return None
        scored = ScoredSet(config.out, verify=False)
        scored.verify()
        summary = Summary(config.out)
        read_back(summary, scored.manifest, scored)
    except (GaincurateError, OSError):
        return None
    return summary


def read_back(summary: Summary, manifest: Json, scored: ScoredSet | None) -> None:
    """Put a finished set's own figures into a summary; without the set, what its manifest says."""
    summary.complete = True
    for name in ("rows", "rejected", "truncated", "rows_without_prefix", "zero_vectors"):
        setattr(summary, name, manifest[name])
    if "reuse" in manifest["identity"]:
        summary.reused = sum(entry["reused"] for entry in manifest["shards"])
    if summary.rows and scored is not None:
        angle = scored.column("gc_angle").to_numpy()
        length = scored.column("gc_question_tokens").to_numpy()
        summary.spearman_length = spearman(angle, length)


def asked_of(config: ScoreConfig) -> str | None:
    """A digest of all that a run depends on; None for data or a model of the Hub, which may change unseen."""
    if place_of(config.model)["kind"] == "hub":
        return None
    try:
        files = locate_model(
            config.model, allow_pickle=config.allow_pickle, trust_remote_code=config.trust_remote_code
        )
        model = [path for weight in files.weights for path in _files(weight)]
        model += [] if files.gguf else [path for path in _files(files.folder) if path not in model]
        data = [path for name in sorted(glob.glob(config.data)) for path in _files(Path(name))]
        if not data:
            return None
        data += [
            Path(scored) / MANIFEST for scored in config.reuse
        ]  # of one in a store there is no such file
        stats = [
            [os.path.realpath(path), path.stat().st_size, path.stat().st_mtime_ns] for path in [*model, *data]
        ]
    except (GaincurateError, OSError):
        return None
    return digest_json(
        {
            "options": config.model_dump(mode="json", exclude={"out", "overwrite"}),
            "files": stats,
            "versions": {"gaincurate": __version__, **{name: _version(name) for name in _LIBRARIES}},
            "settings": {name: os.environ.get(name) for name in _SETTINGS},
            "machine": [platform.node(), platform.machine(), len(os.sched_getaffinity(0))],
            "day": time.strftime("%Y-%m-%d"),
        }
    )


def _files(path: Path) -> Iterator[Path]:
    """The file, or all files below the folder, by name."""
    if path.is_dir():
        yield from sorted(each for each in path.rglob("*") if each.is_file())
    else:
        yield path


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

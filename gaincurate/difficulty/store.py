"""A fitted predictor on disk: takes a module, yields a folder with `adapter.safetensors` and `config.json`.

Nothing else is read: weights of other formats can run code. Knows nothing of training.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from gaincurate.core.artifact import Json
from gaincurate.difficulty.predictor import DifficultyPredictor, Shape
from gaincurate.errors import InputError, OutputError, storage_error
from gaincurate.files import digest_bytes, reading, write_atomic, write_json

WEIGHTS, CONFIG = "adapter.safetensors", "config.json"
FORMAT = 1
_PICKLED = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"}


@dataclass(frozen=True, slots=True)
class Adapter:
    """A fitted module in evaluation mode, the model that made the embeddings it reads, how it was fitted, and
    the hash of its weights.
    """

    predictor: DifficultyPredictor
    embedding: Json
    how: Json
    digest: str


def save_adapter(folder: Path, predictor: DifficultyPredictor, embedding: Json, how: Json) -> Adapter:
    """Write the folder; the configuration goes last, and names the weights' hash.

    Raises:
        OutputError: the folder holds something else.
        StorageError: the file system refused.
    """
    refuse_other_folder(folder)
    weights = save({name: value.contiguous() for name, value in predictor.state_dict().items()})
    digest = digest_bytes(weights)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    write_atomic(folder / WEIGHTS, weights)
    facts = {"format": FORMAT, "shape": asdict(predictor.shape), "embedding": embedding, "weights": digest}
    write_json(folder / CONFIG, {**facts, "how": how})
    return Adapter(predictor.eval(), embedding, how, digest)


def refuse_other_folder(folder: Path) -> None:
    """See that a folder is new, empty or an adapter's, before anything is spent.

    Raises:
        OutputError: it holds something else.
    """
    if folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - {WEIGHTS, CONFIG}):
        raise OutputError(f"--out {folder} already holds something else; give a new or empty folder.")


def load_adapter(folder: Path) -> Adapter:
    """Read it.

    Raises:
        InputError: no adapter, weights of another format, a damaged or unfinished one.
        StorageError: it cannot be read.
    """
    if folder.suffix in _PICKLED or any(path.suffix in _PICKLED for path in folder.glob("*")):
        raise InputError(
            f"--adapter {folder} has pickled weights, which run code when they are loaded; only "
            f"{WEIGHTS} is read. `gaincurate difficulty fit` makes one."
        )
    if not (folder / CONFIG).exists() or not (folder / WEIGHTS).exists():
        raise InputError(
            f"--adapter {folder} is no fitted predictor: it has no {CONFIG} and {WEIGHTS}. `gaincurate "
            f"difficulty fit SCORED --outcomes FILE --out {folder}` makes one.",
            path=str(folder),
        )
    with reading(folder):
        text, weights = (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes()
    try:
        facts: dict[str, Any] = json.loads(text)
        found = facts["format"]
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(folder, f"its {CONFIG} cannot be read") from error
    if found != FORMAT:
        raise InputError(f"--adapter {folder} has format {found}, this version reads {FORMAT}; fit it again.")
    if digest_bytes(weights) != facts.get("weights"):
        raise _damaged(folder, f"{WEIGHTS} does not match the hash in {CONFIG}")
    try:
        predictor = DifficultyPredictor(Shape(**facts["shape"]))
        predictor.load_state_dict(load(weights))
        return Adapter(predictor.eval(), facts["embedding"], facts["how"], facts["weights"])
    except (SafetensorError, LookupError, TypeError, RuntimeError) as error:
        raise _damaged(folder, f"{CONFIG} and {WEIGHTS} do not belong together") from error


def _damaged(folder: Path, reason: str) -> InputError:
    return InputError(f"--adapter {folder} is damaged: {reason}; fit it again.", path=str(folder))

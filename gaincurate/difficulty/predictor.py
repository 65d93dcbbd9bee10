"""The adapter and the calibration of DOTS (arXiv 2506.05316, section 3), and the folder of a fitted one.

Where the paper and the released code of its authors differ, this is the paper. Weights are safetensors only,
because pickled ones run code when they are read.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from gaincurate.core.artifact import Json
from gaincurate.core.files import digest_bytes, is_temporary, reading, write_atomic
from gaincurate.core.foreign import read_bytes
from gaincurate.core.rng import Floats
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.embeddings import Matrix, matrix, see_same_maker
from gaincurate.difficulty.methods import Fitted, Inputs, Seen
from gaincurate.errors import InputError, OutputError, storage_error

WEIGHTS, CONFIG = "adapter.safetensors", "config.json"
FORMAT = 2
CLIP = 1e-4
"""A mean of references is kept this far from 0 and 1 before its logit is taken."""
_EDGE = 1e-6  # what is handed out stays inside (0, 1), also where a sigmoid rounds to its end


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the module; the defaults are the paper's.

    `width`: of an embedding. `hidden`, `dropout`: of the adapter's three layers. `calibration_hidden`: of the
    calibration's one.
    """

    width: int
    hidden: int = 896
    dropout: float = 0.1
    calibration_hidden: int = 10


class DifficultyPredictor(nn.Module):
    """Adapter (three linear layers), attention over references, calibration.

    Args:
        shape: see there.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.adapter = nn.Sequential(
            nn.Linear(shape.width, shape.hidden),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            nn.Linear(shape.hidden, shape.hidden),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            nn.Linear(shape.hidden, shape.hidden),
            nn.LayerNorm(shape.hidden),
        )
        self.calibration = nn.Sequential(
            nn.Linear(2, shape.calibration_hidden), nn.ReLU(), nn.Linear(shape.calibration_hidden, 2)
        )

    def forward(
        self, queries: Tensor, references: Tensor, failures: Tensor, seen: Tensor | None = None
    ) -> Tensor:
        """Logits of d, `[queries]`.

        Args:
            queries: embeddings, `[queries, width]`.
            references: embeddings, `[K, width]`.
            failures: the references' observed failure rates, `[K]`.
            seen: `[queries, K]`, which references each query may use; None: all.
        """
        return self.mix(self.encode(queries), self.encode(references), failures, seen)

    def encode(self, embeddings: Tensor) -> Tensor:
        """Adapted embeddings, `[rows, hidden]`."""
        adapted: Tensor = self.adapter(embeddings)
        return adapted

    def mix(
        self, queries: Tensor, references: Tensor, failures: Tensor, seen: Tensor | None = None
    ) -> Tensor:
        """`forward` from adapted embeddings on.

        The mean of `failures` under softmax(q . r / sqrt(hidden)) is calibrated: the logit of d is
        w * logit(mean) + b, where w and b come from the mean and the population standard deviation of the
        references that a query may use.
        """
        seen = torch.ones_like(failures, dtype=torch.bool)[None] if seen is None else seen
        scores = queries @ references.T / math.sqrt(queries.shape[-1])  # [queries, K]
        weighted = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ failures
        count = seen.sum(-1)  # [queries], or [1] where all may use the same, and so are mean and spread
        mean = (failures * seen).sum(-1) / count
        # The root has no gradient at zero and none is asked for: failures are data.
        spread = (((failures - mean[:, None]).square() * seen).sum(-1) / count).sqrt()
        raw = self.calibration(torch.stack([mean, spread], -1))
        w, b = functional.softplus(raw[:, 0]), torch.tanh(raw[:, 1])
        return w * torch.logit(weighted, CLIP) + b


def probability(logits: Tensor) -> Tensor:
    """Failure rates from their logits, inside (0, 1)."""
    return torch.sigmoid(logits).clamp(_EDGE, 1 - _EDGE)


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
    write_sealed(folder / CONFIG, {**facts, "how": how})
    return Adapter(predictor.eval(), embedding, how, digest)


def refuse_other_folder(folder: Path) -> None:
    """See that a folder is new, empty or an adapter's, before anything is spent.

    Raises:
        OutputError: it holds something else.
    """
    if not folder.exists():
        return
    ours = {WEIGHTS, CONFIG}
    if not folder.is_dir() or not all(p.name in ours or is_temporary(p.name) for p in folder.iterdir()):
        raise OutputError(f"--out {folder} already holds something else; give a new or empty folder.")


def load_adapter(folder: Path) -> Adapter:
    """Read it.

    Raises:
        InputError: no adapter, one of another format, or damage.
        StorageError: it cannot be read.
    """
    if not (folder / CONFIG).exists() or not (folder / WEIGHTS).exists():
        raise InputError(
            f"--adapter {folder} is no fitted predictor: it has no {CONFIG} and {WEIGHTS}. `gaincurate "
            f"difficulty fit SCORED --rollouts FILE --out {folder}` makes one.",
            path=str(folder),
        )
    facts = read_sealed(folder / CONFIG, "fit the predictor again")
    with reading(folder / WEIGHTS):
        weights = read_bytes(folder / WEIGHTS)
    if facts["format"] != FORMAT:
        raise InputError(
            f"--adapter {folder} has format {facts['format']}, this version reads {FORMAT}; fit it again."
        )
    if digest_bytes(weights) != facts["weights"]:
        raise InputError(
            f"--adapter {folder} is damaged: {WEIGHTS} does not match the hash in {CONFIG}; fit it again.",
            path=str(folder),
        )
    predictor = DifficultyPredictor(Shape(**facts["shape"]))
    predictor.load_state_dict(load(weights))
    return Adapter(predictor.eval(), facts["embedding"], facts["how"], facts["weights"])


class ByAdapter:
    """`adapter`: the trained attention and calibration, which are for failure rates.

    Args:
        adapter: fitted.
        scored: the set; its embeddings must be of the model that the adapter was fitted on.

    Raises:
        InputError: embeddings of another model.
    """

    def __init__(self, adapter: Adapter, scored: ScoredSet) -> None:
        if EMBEDDING in scored.schema.names:
            see_same_maker(scored, adapter.embedding)
        self.columns = [ID, EMBEDDING]
        self._folder, self._adapter = scored.folder, adapter

    def read(self, table: pa.Table) -> Matrix:
        """The embeddings."""
        return matrix(table, self._folder)

    def fit(self, inputs: Inputs, seen: Seen) -> Fitted:
        """See `methods.Method`."""
        predictor, values = self._adapter.predictor, torch.from_numpy(seen.values).float()
        with torch.inference_mode():
            references = predictor.encode(torch.from_numpy(inputs))

        @torch.inference_mode()
        def leave_one_out() -> Floats:
            others = ~torch.eye(len(values), dtype=torch.bool)
            return probability(predictor.mix(references, references, values, others)).double().numpy()

        facts = {"adapter": self._adapter.digest, "shape": asdict(predictor.shape)}
        return Fitted(lambda rows: by_references(predictor, rows, references, values), leave_one_out, facts)


@torch.inference_mode()
def by_references(
    predictor: DifficultyPredictor, queries: Matrix, references: Tensor, failure: Tensor
) -> Floats:
    """Failure rates of `queries` `[rows, width]` from adapted `references` `[K, hidden]`."""
    adapted = predictor.encode(torch.from_numpy(queries))
    return probability(predictor.mix(adapted, references, failure)).double().numpy()

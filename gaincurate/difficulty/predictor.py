"""The adapter and the calibration of DOTS (arXiv 2506.05316, section 3): module, training, and folder.

Where the paper and the code released by its authors differ, this module follows the paper. Weights are
safetensors only, because pickled ones run code when they are read. The same prompts are held out for all
policies, so that no policy shows the adapter what another is tested on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

import gaincurate
from gaincurate.core.artifact import Json
from gaincurate.core.files import digest_bytes, is_temporary, make_folder, reading, write_atomic
from gaincurate.core.foreign import read_bytes
from gaincurate.core.rng import Floats, Ints, permutation
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.config import Recipe
from gaincurate.difficulty.embeddings import Matrix, maker, matrix, of_ids, see_same_maker
from gaincurate.difficulty.methods import Fitted, Inputs, Seen
from gaincurate.difficulty.metrics import quality
from gaincurate.difficulty.pass_rates import PassRates
from gaincurate.errors import InputError, OutputError

WEIGHTS, CONFIG = "adapter.safetensors", "config.json"
FORMAT = 2
CLIP = 1e-4  # a mean of references is kept this far from 0 and 1 before its logit is taken
_FEWEST = 16  # prompts of a policy to train on
_WARM_UP, _WARM_UP_SHARE = 100, 0.1
_SPLIT, _DRAWS = 11, 12  # streams of random numbers
_EDGE = 1e-6  # what is handed out stays inside (0, 1), also where a sigmoid rounds to its end


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """The width of an embedding, and the sizes of adapter and calibration, by default the paper's."""

    width: int
    hidden: int = 896
    dropout: float = 0.1
    calibration_hidden: int = 10


class DifficultyPredictor(nn.Module):
    """Adapter (three linear layers), attention over references, calibration."""

    def __init__(self, shape: AdapterShape) -> None:
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

    def forward(self, queries: Tensor, references: Tensor, failures: Tensor) -> Tensor:
        """Logits of d, `[queries]`.

        Args:
            queries: embeddings, `[queries, width]`.
            references: embeddings, `[K, width]`.
            failures: the references' observed failure rates, `[K]`.
        """
        return self.mix(self.encode(queries), self.encode(references), failures)

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
        references that a query may use: `seen` `[queries, K]`, None for all.
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
    """A fitted module in evaluation mode, the model of its embeddings, how it was fitted, its hash."""

    predictor: DifficultyPredictor
    embedding: Json
    how: Json
    digest: str


def save_adapter(folder: Path, predictor: DifficultyPredictor, embedding: Json, how: Json) -> Adapter:
    """Write the folder; the configuration goes last, and has the weights' hash.

    Raises `OutputError` if the folder holds something else, `StorageError` if the file system refuses.
    """
    refuse_other_folder(folder)
    make_folder(folder)
    weights = save({name: value.contiguous() for name, value in predictor.state_dict().items()})
    digest = digest_bytes(weights)
    write_atomic(folder / WEIGHTS, weights)
    facts = {"format": FORMAT, "shape": asdict(predictor.shape), "embedding": embedding, "weights": digest}
    write_sealed(folder / CONFIG, {**facts, "how": how})
    return Adapter(predictor.eval(), embedding, how, digest)


def refuse_other_folder(folder: Path) -> None:
    """Raise `OutputError` unless a folder is new, empty or an adapter's."""
    if not folder.exists():
        return
    ours = {WEIGHTS, CONFIG}
    if not folder.is_dir() or not all(p.name in ours or is_temporary(p.name) for p in folder.iterdir()):
        raise OutputError(f"--out {folder} already holds something else; give a new or empty folder.")


def load_adapter(folder: Path) -> Adapter:
    """Read a fitted predictor.

    Raises `InputError` for no adapter, another format or damage, `StorageError` if it cannot be read.
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
    predictor = DifficultyPredictor(AdapterShape(**facts["shape"]))
    predictor.load_state_dict(load(weights))
    return Adapter(predictor.eval(), facts["embedding"], facts["how"], facts["weights"])


class ByAdapter:
    """`adapter`: the trained attention and calibration, which predict failure rates.

    Raises `InputError` if the set has embeddings of another model than the adapter was fitted on.
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
        predictor = self._adapter.predictor

        @torch.inference_mode()
        def leave_one_out() -> Floats:
            values = torch.from_numpy(seen.values).float()
            references = predictor.encode(torch.from_numpy(inputs))
            others = ~torch.eye(len(values), dtype=torch.bool)
            return probability(predictor.mix(references, references, values, others)).double().numpy()

        facts = {"adapter": self._adapter.digest, "shape": asdict(predictor.shape)}
        return Fitted(by_references(predictor, inputs, seen.values), leave_one_out, facts)


def by_references(
    predictor: DifficultyPredictor, references: Matrix, failures: Floats
) -> Callable[[Matrix], Floats]:
    """A function of embeddings `[rows, width]` to failure rates `[rows]`, from references `[K, width]`."""
    observed = torch.from_numpy(failures).float()
    with torch.inference_mode():
        adapted = predictor.encode(torch.from_numpy(references))

    @torch.inference_mode()
    def predict(queries: Matrix) -> Floats:
        logits = predictor.mix(predictor.encode(torch.from_numpy(queries)), adapted, observed)
        return probability(logits).double().numpy()

    return predict


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy's observations: `rows` of the embeddings, distinct, and their failure rates, `[prompts]`."""

    name: str
    rows: Ints
    failure: Floats


Watch = Callable[[int, int, float], None]  # of every epoch: its number from 1, of how many, its mean loss


def fit(
    embeddings: Tensor,
    policies: Sequence[Policy],
    shape: AdapterShape,
    recipe: Recipe,
    watch: Watch = lambda epoch, epochs, loss: None,
) -> tuple[DifficultyPredictor, Ints, list[float]]:
    """Train with the mean binary cross-entropy between predicted and observed failure rates.

    `embeddings` are `[rows, width]`, float32; there is at least one policy. Returns the module in evaluation
    mode, the rows that it never saw, and the mean loss of each epoch. Raises `InputError` for a policy with
    too few prompts to train on.
    """
    held_out = split(policies, recipe)
    training = []
    for policy in policies:
        keep = ~np.isin(policy.rows, held_out)
        if keep.sum() < _FEWEST:
            raise InputError(
                f"{policy.name} has {keep.sum()} prompts to train on and {_FEWEST} are needed: observe "
                "more prompts, or predict without training (`gaincurate difficulty predict`)."
            )
        training.append(Policy(policy.name, policy.rows[keep], policy.failure[keep]))
    targets = [torch.from_numpy(policy.failure).to(embeddings.dtype) for policy in training]
    steps = recipe.epochs * sum(1 for _ in batches(training, recipe, 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed % 2**63)  # of the first weights and of dropout
        predictor = DifficultyPredictor(shape).to(embeddings).train()
        optimiser = torch.optim.Adam(predictor.parameters(), recipe.rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_at(step, steps))
        losses = []
        for epoch in range(recipe.epochs):
            total = count = 0.0
            for parts in batches(training, recipe, epoch):
                logits, wanted = [], []
                for number, queries, references in parts:
                    rows, target = training[number].rows, targets[number]
                    logits.append(
                        predictor(embeddings[rows[queries]], embeddings[rows[references]], target[references])
                    )
                    wanted.append(target[queries])
                loss = functional.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(wanted))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                size = sum(map(len, wanted))
                total, count = total + loss.item() * size, count + size
            losses.append(total / count)
            watch(epoch + 1, recipe.epochs, losses[-1])
    return predictor.eval(), held_out, losses


def split(policies: Sequence[Policy], recipe: Recipe) -> Ints:
    """The rows that are held out, for all policies alike, sorted."""
    rows = np.unique(np.concatenate([policy.rows for policy in policies]))
    order = permutation(recipe.seed, 0, _SPLIT, len(rows))
    return np.sort(rows[order[: round(recipe.held_out * len(rows))]])


def batches(policies: Sequence[Policy], recipe: Recipe, epoch: int) -> Iterator[list[tuple[int, Ints, Ints]]]:
    """An epoch's batches, in which every prompt of every policy is a query once, in random order.

    A policy's references are the first K, or all if there are fewer, of a new random order of its observed
    prompts that are not queries of this batch. A batch has for each policy in it the policy's number, and the
    places of queries and of references among its prompts.
    """
    owner = np.concatenate([np.full(len(policy.rows), i) for i, policy in enumerate(policies)])
    place = np.concatenate([np.arange(len(policy.rows)) for policy in policies])
    # References are no queries of the batch, so it has at most a quarter of a small set as queries.
    size = min(recipe.batch, max(1, len(owner) // 4))
    highest = max(int(policy.rows.max()) for policy in policies)
    order = permutation(recipe.seed, epoch, _DRAWS, len(owner))
    for index, start in enumerate(range(0, len(order), size)):
        chosen = order[start : start + size]
        rank = permutation(recipe.seed, epoch, _DRAWS + 1 + index, highest + 1)
        parts = []
        for number in np.unique(owner[chosen]).tolist():
            queries = place[chosen[owner[chosen] == number]]
            others = np.setdiff1d(np.arange(len(policies[number].rows)), queries)
            by_rank = np.argsort(rank[policies[number].rows[others]], kind="stable")
            if len(others):
                parts.append((number, queries, others[by_rank[: recipe.references]]))
        if parts:
            yield parts


def rate_at(step: int, steps: int) -> float:
    """The learning rate's factor at a step from 0."""
    warm = min(_WARM_UP, max(1, int(_WARM_UP_SHARE * steps)))
    return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))


def fit_on(
    folders: Sequence[Path],
    rates: Sequence[PassRates],
    out: Path,
    recipe: Recipe,
    watch: Watch = lambda epoch, epochs, loss: None,
) -> Json:
    """Fit and save. A policy's held-out prompts are predicted from K random ones of its others.

    The scored sets in `folders` have embeddings of one model, and `rates` are one for each policy.

    Returns:
        `instances`, rates that were trained on, of `prompts` distinct prompts; `losses`, the epochs' means;
        for each of `policies` its `name`, how many prompts were `trained` on, and the `Quality` on its
        `held_out` ones (None where there are too few).

    Raises:
        InputError: sets or outcomes that do not fit together, or too few prompts.
        OutputError: the adapter's folder `out` holds something else, or a set is damaged.
    """
    refuse_other_folder(out)
    sets = [ScoredSet(folder) for folder in folders]
    ids = sorted({gc_id for observed in rates for gc_id in observed.ids})
    rows, place = of_ids(sets, ids), {gc_id: row for row, gc_id in enumerate(ids)}
    policies = [Policy(e.name, np.array([place[i] for i in e.ids], np.int64), e.failure) for e in rates]
    shape = AdapterShape(rows.shape[1])
    predictor, held_out, losses = fit(torch.from_numpy(rows), policies, shape, recipe, watch)
    how = {
        "made_by": f"gaincurate {gaincurate.__version__} difficulty fit",
        "recipe": recipe.model_dump(),
        "sets": [scored.manifest_hash for scored in sets],
        "policies": [
            {"name": each.name, "prompts": len(each.ids), "outcomes": each.source} for each in rates
        ],
        "held_out": [ids[row] for row in held_out.tolist()],
        "losses": losses,
    }
    save_adapter(out, predictor, maker(sets[0]), how)
    reports: list[Json] = []
    for policy, observed in zip(policies, rates, strict=True):
        hidden, figures = np.isin(policy.rows, held_out), None
        asked, others = np.flatnonzero(hidden), np.flatnonzero(~hidden)
        if len(asked) >= 3:
            chosen = others[permutation(recipe.seed, 1, _SPLIT, len(others))[: recipe.references]]
            references = rows[policy.rows[chosen]], policy.failure[chosen]
            predicted = by_references(predictor, *references)(rows[policy.rows[asked]])
            won, lost = observed.wins[asked], observed.losses[asked]
            figures = asdict(quality(predicted, won, lost, counted=observed.counted, seed=recipe.seed))
        reports.append({"name": policy.name, "trained": len(others), "held_out": figures})
    return {
        "instances": sum(report["trained"] for report in reports),
        "prompts": len(ids) - len(held_out),
        "losses": losses,
        "policies": reports,
    }

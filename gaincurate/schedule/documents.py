"""What the JSON files of a run have to say before anything uses them.

The models only check, as those of `core.manifest` do, and let the rest through: strategies write
facts of their own.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, FiniteFloat, model_validator

from gaincurate.core.manifest import Count, Document, Hash, Seconds

SetName = Annotated[str, Field(pattern=r"^[\w-]+(/[\w-]+)*$")]
"""A scored set by the name that states give it: `base`, or a folder in the run's own."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{1,128}$")]


class Scores(Document):
    """Where a run's scored set is."""

    folder: str
    relative: str | None = None
    cache: str | None = None
    manifest: str


class Logged(Document):
    """A line of `execution.jsonl`."""

    what: str
    round: int = -1
    seconds: Seconds = 0.0
    repeated: Count | None = None
    void: Count | None = None


class Facts(Document):
    """`run.json`."""

    config: dict[str, Any]
    params: dict[str, Any]
    scores: Scores
    rows: Annotated[Count, Field(ge=1)]
    kept: Count = 0  # there where the run leaves rows out
    angles: Annotated[list[float | None], Field(min_length=2, max_length=2)]


class State(Document):
    """`state.json`, of the run and of each round."""

    round: Annotated[int, Field(ge=-1)]
    rows: list[Count]
    order: Digest
    ordered_by: SetName
    scores: SetName
    probe: SetName | None
    checkpoint: str | None
    taken: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Count]
    selector: Any
    inputs: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    finished: bool = False

    @model_validator(mode="after")
    def _says_what_came_last(self) -> State:
        if self.finished and self.inputs is None:
            raise ValueError("it is finished and has no inputs")
        return self


class _Bytes(Document):
    bytes: Count
    hash: Digest


class Place(Document):
    """What a trainer saves beside a checkpoint (`rollback.saved_place`)."""

    run: Digest
    round: Count
    step: Annotated[int, Field(ge=0, lt=2**53)]
    plan: Digest
    outcomes: _Bytes
    state: State
    position: Count = 0  # what a session adds
    batch: dict[str, Any] = Field(default_factory=dict)  # and TRL's adapter

    @model_validator(mode="after")
    def _of_one_round(self) -> Place:
        if self.state.round != self.round:
            raise ValueError(f"its state is of round {self.state.round} and it of round {self.round}")
        return self


LARGEST = 1e9
"""Of what a strategy predicts, which is a rate: figures are computed from it."""


class Predicted(Document):
    """What stands beside the column of a round's predictions."""

    hash: Hash
    how: dict[str, Any]


class Plan(Document):
    """`plan.json`."""

    round: Count
    ids: list[str]
    params: dict[str, Any]
    mu: float | None
    sigma: float | None
    metrics: dict[str, Any]
    inputs: dict[str, Any]
    forecast: dict[str, Any]
    predicted: list[Annotated[float, Field(ge=-LARGEST, le=LARGEST)]] = Field(default_factory=list)
    predicted_rollouts: list[Annotated[FiniteFloat, Field(gt=0)]] = Field(default_factory=list)
    references: dict[str, Any] | None = None

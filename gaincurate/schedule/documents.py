"""What the JSON files of a run have to say before anything uses them.

The models only check, as those of `core.manifest` do, and let the rest through: strategies write
facts of their own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

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


class Inputs(Document):
    """What a plan was computed from: empty in round 0."""

    accuracy: float | None = None
    effective: float | None = None
    concentration: float | None = None
    drift: float | None = None
    prompts: Count | None = None
    rollouts: Count | None = None
    unjudged: Count | None = None
    late: Count | None = None
    completion_tokens: Count | None = None
    calibration: dict[str, Any] | None = None


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
    inputs: Inputs | None = None
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


class _Forecast(Document):
    prompt_tokens: Count
    mean_question_tokens: float
    mean_angle: float | None


LARGEST = 1e9
"""Of what a strategy predicts, which is a rate: figures are computed from it."""


class _Figure(Document):
    value: float | None
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None


class _Bin(Document):
    low: float
    high: float
    count: Count
    predicted: float
    observed: float


class _Quality(Document):
    count: Count
    pearson: _Figure
    spearman: _Figure
    brier: _Figure
    ceiling: _Figure
    reliability: list[_Bin]


class _How(Document):
    method: str
    on_references: _Quality
    on_halves: _Quality | None


class Predicted(Document):
    """What stands beside the column of a round's predictions."""

    hash: Hash
    how: _How


class _Predictor(Document):
    method: str


class _Reusable(Document):
    ids: list[str]


class References(Document):
    """What a plan says of its references."""

    ids: list[str]
    observed: Count
    left_out: Count
    rollouts: Count | None
    completion_tokens: Count | None
    unjudged: Count | None
    policy: Any
    carried: float | None
    checkpoint: str | None
    predictor: _Predictor
    quality: _Quality
    quality_of_halves: _Quality | None
    reusable: _Reusable = _Reusable(ids=[])
    target: Literal["difficulty", "variance"] = "difficulty"


class Plan(Document):
    """`plan.json`."""

    round: Count
    ids: list[str]
    params: dict[str, Any]
    mu: float | None
    sigma: float | None
    metrics: dict[str, Any]
    inputs: Inputs
    forecast: _Forecast
    predicted: list[Annotated[float, Field(ge=-LARGEST, le=LARGEST)]] = Field(default_factory=list)
    references: References | None = None

    @model_validator(mode="after")
    def _of_each_prompt(self) -> Plan:
        there = self.model_fields_set
        if "references" in there and (self.references is None or "predicted" not in there):
            raise ValueError("it has references and predicts nothing")
        if "predicted" in there and len(self.predicted) != len(self.ids):
            raise ValueError(f"{len(self.predicted):,} predictions are of {len(self.ids):,} prompts")
        return self

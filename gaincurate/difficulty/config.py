"""The options of rollouts, verifying, fitting and predicting as frozen, checked values.

This module does not import the code that it configures, because the commands' help imports it and must load
neither torch nor Arrow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gaincurate.core.options import (
    ADVANCED,
    MACHINE,
    READING,
    SAMPLING,
    SERVER,
    VERIFYING,
    Option,
    json_object,
    names_of,
    near,
    without_nan,
)
from gaincurate.errors import InputError
from gaincurate.scoring.config import DeviceConfig

API_KEY = "OPENAI_API_KEY"
VERIFIERS = ("math", "reasoning-gym", "exact")


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VerifierConfig(_Config):
    """A verifier of completions, and its limits.

    `gold_as` is the format in which a gold answer is verified itself, with `{answer}` in it.

    Raises:
        InputError: an unknown verifier, or `gold_as` without a place for the answer.
    """

    verifier: Annotated[
        str,
        Option("math, reasoning-gym, exact, or module:function (completion, row) -> 0 to 1.", metavar="NAME"),
    ]
    answer_column: Annotated[
        str | None,
        Option(
            "Column with the gold answer. Default: the one that the set was scored with.",
            READING,
            metavar="NAME",
        ),
    ] = None
    verify_workers: Annotated[int, Field(ge=1, le=1024), Option("Processes that verify.", VERIFYING)] = 2
    verify_seconds: Annotated[
        float,
        Field(ge=0.001, le=86_400),  # the kernel counts in microseconds and takes less as no limit
        Option("Processor time of one verification; three times that by the clock.", VERIFYING),
    ] = 10.0
    verify_memory: Annotated[
        int,
        Field(ge=64, le=1 << 24),  # Python itself needs the least
        Option("MiB of address space of a verifying process.", VERIFYING),
    ] = 4096
    gold_as: str | None = None

    @property
    def needs_answer(self) -> bool:
        """Whether it compares with a gold answer, as all verifiers except a user's function do."""
        return self.verifier in VERIFIERS

    @model_validator(mode="after")
    def _check_verifier(self) -> Self:
        module, colon, function = self.verifier.partition(":")
        is_function = colon and all(p.isidentifier() for p in module.split(".")) and function.isidentifier()
        if not (self.needs_answer or is_function):
            raise InputError(
                f"--verifier {self.verifier}: there are {', '.join(VERIFIERS)}, or module:function for your "
                f"own{near(self.verifier, VERIFIERS)}."
            )
        if self.gold_as is not None and "{answer}" not in self.gold_as:
            raise InputError(f"--gold-as {self.gold_as!r} has no {{answer}} in it.")
        return self


class RejudgeConfig(VerifierConfig):
    """The options of `gaincurate difficulty rejudge`."""

    rollouts: Annotated[Path, Option("A finished rollout set.", metavar="ROLLOUTS", argument=True)]
    out: Annotated[
        Path | None,
        Option("Folder for the new rollout set. Default: ROLLOUTS-VERIFIER.", names=("--out", "-o")),
    ] = None
    scored: Annotated[
        Path | None,
        Option("The scored set of the prompts. Default: the one that the rollouts were made from.", READING),
    ] = None
    overwrite: Annotated[bool, Option("Delete the rollout set in --out first.")] = False


class RolloutConfig(DeviceConfig, VerifierConfig):
    """The options of `gaincurate difficulty rollout`, under the same names."""

    scored: Annotated[Path, Option("A finished scored set.", metavar="SCORED", argument=True, stores=True)]
    out: Annotated[Path, Option("Folder for the rollout set.", names=("--out", "-o"))]
    model: Annotated[
        str | None,
        Option(
            "Generate here: Hub id, folder, .gguf file, or 'demo'.", names=("--model", "-m"), metavar="NAME"
        ),
    ] = None
    server: Annotated[
        str | None,
        Option(
            "Generate there: URL of an OpenAI-compatible server; a key is read from OPENAI_API_KEY.",
            metavar="URL",
        ),
    ] = None
    served_model: Annotated[
        str | None, Option("The server's name for the model. Default: its only one.", SERVER, metavar="NAME")
    ] = None
    samples: Annotated[int, Field(ge=1), Option("Completions of each prompt.")] = 8
    reference: Annotated[
        int | None, Field(ge=1), Option("Number of prompts, drawn by the seed. Default: all.")
    ] = None
    seed: Annotated[
        int, Field(ge=0, lt=2**63), Option("Seed of the reference prompts and of the sampling.", SAMPLING)
    ] = 0
    temperature: Annotated[float, Field(gt=0), Option("Sampling temperature, above 0.", SAMPLING)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1), Option("Nucleus sampling mass; 1 for none.", SAMPLING)] = 1.0
    max_tokens: Annotated[int, Field(ge=1, lt=2**31), Option("Maximum tokens of a completion.", SAMPLING)] = (
        1024
    )
    on_error: Annotated[
        Literal["stop", "skip"],
        Option("What to do with a row that cannot be used or a completion that is not judged.", READING),
    ] = "stop"
    shard_prompts: Annotated[int, Field(ge=1), Option("Prompts per shard.", ADVANCED)] = 1024  # in memory too
    overwrite: Annotated[bool, Option("Delete the rollout set in --out first.")] = False
    batch_tokens: Annotated[
        int | None,
        Field(ge=1),
        Option("Rows times (longest prompt + --max-tokens) of a batch. Default: by memory.", MACHINE),
    ] = None
    allow_pickle: Annotated[bool, Option("Accept pickled weights; they can run code.", ADVANCED)] = False
    trust_remote_code: Annotated[bool, Option("Run a model repository's own code.", ADVANCED)] = False
    concurrency: Annotated[int, Field(ge=1), Option("Requests at a time.", SERVER)] = 16
    retries: Annotated[int, Field(ge=0), Option("Times a request is repeated.", SERVER)] = 8
    backoff: float = Field(default=0.5, ge=0)  # seconds before the first repetition, doubled up to 30
    timeout: Annotated[
        float, Field(gt=0), Option("Seconds for a whole answer until a request has failed.", SERVER)
    ] = 600.0
    logprobs: Annotated[
        bool, Option("Do not ask for log-probabilities.", SERVER, names=(" /--no-logprobs",))
    ] = True
    server_body: Annotated[
        dict[str, Any],
        AfterValidator(without_nan),
        Option(
            "JSON object with more keys for each request.",
            SERVER,
            metavar="JSON",
            read=lambda value: json_object(value, "--server-body", '{"top_k": 20}'),
        ),
    ] = Field(default_factory=dict)
    gold_as: Annotated[
        str | None,
        Option("How a gold answer is written when it is verified itself, with {answer} in it.", READING),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse options that contradict each other, before anything is done."""
        if (self.model is None) == (self.server is None):
            raise InputError("give either --model, to generate here, or --server, to have it done there.")
        if self.server is not None:
            base_url(self.server)
        if self.served_model is not None and self.server is None:
            raise InputError(f"--served-model {self.served_model} goes with --server.")
        return self


def base_url(server: str) -> str:
    """The URL that a server's paths are appended to, with /v1 if it has no path.

    Raises `InputError` if it is no http or https URL, or has more than a host, a port and a path.
    """
    if set("@?#") & set(server):  # not shown, because a password may be in it
        raise InputError(
            f"--server: leave user names, queries and fragments out of the URL; a key is read from {API_KEY}."
        )
    try:
        parts = urlsplit(server)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of the port
        usable = False
    if not (usable and server.isascii() and server.isprintable() and " " not in server):
        raise InputError(f"--server {server}: expected a URL in ASCII such as http://localhost:8000/v1.")
    return parts.geturl().rstrip("/") + ("/v1" if parts.path.strip("/") == "" else "")


def _rollouts(more: str) -> Option:
    return Option(
        "Observed pass rates: a rollout set, a run, an outcomes.jsonl, or .parquet/.arrow/.jsonl with gc_id "
        f"and reward, wins and losses, or pass_rate; may be repeated{more}",
        names=("--rollouts",),
        alias="--outcomes",
    )


RewardRange = Annotated[
    str | list[float] | None,
    Option("Of rewards. Default: 0,1, or a run's own.", READING, metavar="LO,HI", read=str),
]


class Recipe(_Config):
    """The training of the adapter: Adam with linear warm-up over a tenth of the steps (at most 100) and
    linear decay to 0. New `references` are drawn for every batch.
    """

    references: Annotated[int, Field(ge=2), Option("Reference prompts drawn for every batch.")] = 256
    epochs: Annotated[int, Field(ge=1), Option("Passes over all observations.")] = 20
    batch: Annotated[int, Field(ge=1), Option("Queries in a batch.")] = 256
    rate: Annotated[
        float, Field(gt=0, le=1), Option("Of Adam, at its highest.", names=("--learning-rate",))
    ] = 1e-3
    held_out: Annotated[float, Field(ge=0, le=0.5), Option("Share of prompts held out for the report.")] = 0.1
    seed: Annotated[int, Field(ge=0), Option("Seed of all random numbers.")] = 0


class FitConfig(_Config):
    """The options of `gaincurate difficulty fit`."""

    scored: Annotated[
        list[Path], Option("Scored sets with embeddings.", metavar="SCORED...", argument=True, stores=True)
    ]
    outcomes: Annotated[list[Path], _rollouts(". Each file and each round is a policy.")]
    out: Annotated[Path, Option("Folder for the fitted predictor.", names=("--out", "-o"))]
    recipe: Recipe = Recipe()
    reward_range: RewardRange = None


class PredictConfig(_Config):
    """The options of `gaincurate difficulty predict`."""

    scored: Annotated[Path, Option("A finished scored set.", metavar="SCORED", argument=True)]
    outcomes: Annotated[list[Path], _rollouts(" for one policy. Of a run its newest round is taken.")]
    adapter: Annotated[Path | None, Option("A predictor that `difficulty fit` wrote.")] = None
    method: Annotated[
        Literal["gp", "group-mean"] | None,
        Option("Without an adapter: a Gaussian process (gp, the default), or the group's mean."),
    ] = None
    group_column: Annotated[
        str | None, Option("The column that names a row's group.", READING, metavar="NAME")
    ] = None
    rates: Annotated[
        list[str] | None,
        Option(
            "Columns of other models' pass rates, 0 to 1, to predict from in place of embeddings.",
            metavar="COLUMN[,COLUMN...]",
            read=names_of,
        ),
    ] = None
    references: Annotated[int, Field(ge=3), Option("Observed prompts to predict from, drawn at random.")] = (
        256
    )
    reward_range: RewardRange = None
    target: Annotated[
        Literal["difficulty", "variance", "auto"],
        Option(
            "The failure rate, gc_difficulty, or p (1 - p) of the pass rate, gc_variance. auto: the one by "
            "which the references select better prompts."
        ),
    ] = "difficulty"
    seed: Annotated[int, Field(ge=0), Option("Seed of the draw.")] = 0
    out: Annotated[
        Path | None, Option("Write the column into this folder, not into the set's.", names=("--out", "-o"))
    ] = None

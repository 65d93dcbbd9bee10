"""The options of a rollout as frozen, checked values; takes keywords, yields a config.

Knows nothing of the command line. Unknown names are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gaincurate.errors import InputError


class RolloutConfig(BaseModel):
    """What `gaincurate difficulty rollout` does; the command's options under the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scored: Path
    """The scored set."""
    out: Path
    """The rollout set's folder."""
    model: str | None = None
    """Generate here: Hub id, folder, .gguf file, or `demo`."""
    server: str | None = None
    """Generate there: the URL of an OpenAI-compatible server."""
    served_model: str | None = None
    """The server's name for the model. Default: the only one that it has."""
    samples: int = Field(default=8, ge=1)
    """Completions of each prompt, at most."""
    samples_start: int | None = Field(default=None, ge=1)
    """Adaptive: so many first, and again as long as the interval is wider than asked."""
    interval: float | None = Field(default=None, gt=0, lt=1)
    """Adaptive: the width of the pass rate's interval that is narrow enough."""
    reference: int | None = Field(default=None, ge=1)
    """So many prompts, drawn by the seed. Default: all."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the draw of reference prompts and of the sampling."""
    verifier: str
    """`math`, `reasoning-gym`, `exact` or `module:function`."""
    answer_column: str | None = None
    """Column with the gold answer. Default: the scored set's."""
    gold_as: str | None = None
    """How a gold answer is written when it is verified itself, with `{answer}` in it."""
    verify_workers: int = Field(default=2, ge=1)
    """Processes that verify."""
    verify_seconds: float = Field(default=10.0, gt=0)
    """Processor time of one verification; three times that by the clock."""
    verify_memory: int = Field(default=4096, ge=64)
    """MiB of address space of each."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the sampling."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus of the sampling."""
    max_tokens: int = Field(default=1024, ge=1)
    """Of a completion."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with a row or completion that cannot be used or judged."""
    shard_prompts: int = Field(default=1024, ge=1)
    """Prompts in a shard, which is also what is held in memory."""
    overwrite: bool = False
    """Delete the rollout set in `out` first."""
    device: str = "auto"
    """With a model: cpu, cuda or cuda:N; auto: a GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """With a model: auto is float32 on a CPU, bfloat16 on a GPU that has it, else float16."""
    threads: int | None = Field(default=None, ge=1)
    """With a model on a CPU. Default: torch's."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """With a model: rows times (longest prompt + max tokens) of a batch. Default: by the memory."""
    allow_pickle: bool = False
    """With a model: accept pickled weights."""
    trust_remote_code: bool = False
    """With a model: run its repository's own code."""
    concurrency: int = Field(default=16, ge=1)
    """With a server: requests at a time."""
    rate: float | None = Field(default=None, gt=0)
    """With a server: requests begun in a second, at most."""
    retries: int = Field(default=8, ge=0)
    """With a server: times that a request is repeated."""
    backoff: float = Field(default=0.5, ge=0)
    """With a server: seconds before the first repetition, doubled each time, up to 30."""
    timeout: float = Field(default=600.0, gt=0)
    """With a server: seconds without a byte until a request counts as failed."""
    logprobs: bool = True
    """With a server: ask for the log-probabilities of the tokens."""
    server_body: dict[str, Any] = Field(default_factory=dict)
    """With a server: more keys for each request's body."""

    def check(self) -> None:
        """Check what no option shows alone.

        Raises:
            InputError: options that contradict each other.
        """
        if (self.model is None) == (self.server is None):
            raise InputError("give either --model, to generate here, or --server, to have it done there.")
        if self.served_model is not None and self.server is None:
            raise InputError(f"--served-model {self.served_model} goes with --server.")
        if (self.samples_start is None) != (self.interval is None):
            raise InputError(
                "--samples-start and --interval go together: the first samples, and how wide the interval "
                "may stay."
            )
        if self.samples_start is not None and self.samples_start > self.samples:
            raise InputError(
                f"--samples-start {self.samples_start} is more than --samples {self.samples}, the most that "
                "a prompt gets."
            )


def make_config(**options: Any) -> RolloutConfig:
    """The options, checked.

    Raises:
        InputError: a value that an option does not take.
    """
    try:
        config = RolloutConfig(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = "-".join(str(first["loc"][0]).split("_")) if first["loc"] else "options"
        said = first["msg"].removeprefix("Input ")
        raise InputError(f"--{name} {first['input']!r}: it {said}.") from error
    config.check()
    return config

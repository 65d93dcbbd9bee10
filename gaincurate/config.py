"""The options of each stage as frozen, checked values; takes keywords, yields a config.

Knows nothing of the command line. Unknown names are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gaincurate.errors import InputError
from gaincurate.locks import Split

DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?")
"""What `--device` takes."""
MAX_WEIGHT = 1e30  # times a cosine, still a float32
Signal = Literal["angle", "nll", "entropy", "embedding"]
SIGNALS: tuple[Signal, ...] = ("angle", "nll", "entropy", "embedding")


class ScoreConfig(BaseModel):
    """What `gaincurate score` does; the command's options under the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    data: str
    """File, glob, folder, `save_to_disk` folder or Hub id."""
    model: str
    """Hub id, folder, .gguf file, or `demo`."""
    out: Path
    """The scored set's folder."""
    prompt_column: str | None = None
    """Column with the prompt; a dot goes into a struct. Default: found."""
    answer_column: str | None = None
    """Column with the answer, which is part of the id. Default: found."""
    id_column: str | None = None
    """Column with unique ids. Default: `gc_id` where there is one, else a content hash."""
    system: str | None = None
    """System message for every row."""
    system_override: bool = False
    """Replace rows' own system messages."""
    shots: list[dict[str, Any]] = Field(default_factory=list)
    """Chat messages put after the system message."""
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Extra variables for the chat template."""
    split: str | None = None
    """Split of a Hub set or folder."""
    limit: int | None = Field(default=None, ge=1)
    """Take the first rows only."""
    layer: int = -1
    """Decoder layer of `mlp_input`."""
    site: Literal["mlp_input", "final_norm"] = "mlp_input"
    """The scored tensor."""
    signals: tuple[Signal, ...] = ("angle",)
    """What is written: `angle` always; `nll` adds `gc_nll`, `entropy` adds `gc_entropy` and
    `gc_last_entropy`, `embedding` adds `gc_embedding`; with each of them the forward runs to its end."""
    logits_memory: int = Field(default=512, ge=1)
    """MiB that logits, and what is made of them, may take at a time; for `nll` and `entropy`."""
    inter_weight: float = Field(default=1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT)
    """Weight of the inter term in `gc_angle`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the model; auto: float32 on a CPU, bfloat16 on a GPU that has it, else float16."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto: a GPU where there is one."""
    backend: Literal["auto", "triton", "torch"] = "auto"
    """Of the angle code; auto: the Triton kernel on a GPU, PyTorch on a CPU."""
    workers: int | None = Field(default=None, ge=1)
    """Processes. Default: one on a CPU, one for each GPU of a kind."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each process. Default: torch's, shared among the workers."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens in a batch. Default: by the device's memory."""
    max_length: int | None = Field(default=None, ge=1)
    """Longest whole prompt in tokens. Default: the model's."""
    on_overlong: Literal["error", "truncate", "skip"] = "error"
    """What to do with a longer one."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with a row that cannot be scored."""
    shard_rows: int = Field(default=1024, ge=1)
    """Source rows per shard."""
    split_run: Split = Split()
    """Which shards this process writes (`--shard I/N`)."""
    overwrite: bool = False
    """Delete what is in `out` first."""
    allow_pickle: bool = False
    """Accept pickled weights."""
    trust_remote_code: bool = False
    """Run a model repository's own code."""

    @field_validator("signals", mode="before")
    @classmethod
    def _in_one_order(cls, value: object) -> tuple[Signal, ...]:
        return check_signals([value] if isinstance(value, str) else value)

    @property
    def needs_head(self) -> bool:
        """Whether a signal is made of logits."""
        return "nll" in self.signals or "entropy" in self.signals


def check_signals(value: object) -> tuple[Signal, ...]:
    """The signals in the order of `SIGNALS`, whatever order they were given in.

    Raises:
        InputError: one that there is not, or `angle` is not among them.
    """
    given = [str(name) for name in value] if isinstance(value, (list, tuple)) else [str(value)]
    for name in given:
        if name not in SIGNALS:
            listed = f"{', '.join(SIGNALS[:-1])} and {SIGNALS[-1]}"
            raise InputError(f"--signals: there is no signal {name!r}; there are {listed}.")
    if SIGNALS[0] not in given:
        raise InputError(
            f"--signals {','.join(given)}: angle is always computed; write angle,{','.join(given)}."
        )
    return tuple(name for name in SIGNALS if name in given)

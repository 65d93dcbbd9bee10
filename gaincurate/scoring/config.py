"""The options of scoring as frozen, validated values: fields, command-line options and keywords of `score`.

On the command line and in a `--config` file some values are written as text (`@FILE` for a system message,
`I/N` for a part of a run). Keywords take the values themselves, so there a system message may begin with @.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from gaincurate.core.foreign import json_file, read_text
from gaincurate.core.locks import Split
from gaincurate.core.options import ADVANCED, MACHINE, READING, Option, json_object, names_of, without_nan
from gaincurate.core.ray_workers import ClusterConfig, read_workers
from gaincurate.core.store import located
from gaincurate.errors import InputError

DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,9})?")  # the values of `--device`
MAX_WEIGHT = 1e30  # its product with a cosine is a finite float32
MOST_THREADS = 1024  # OpenMP fails or crashes at larger numbers than any machine has
Signal = Literal["angle", "nll", "entropy", "embedding"]
SIGNALS: tuple[Signal, ...] = ("angle", "nll", "entropy", "embedding")
_ARRAY = "SLURM_ARRAY_TASK_"
# Variables with a part's number (from 0) and with the number of parts, which Kubernetes does not set.
_RANKS = {"JOB_COMPLETION_INDEX": "GAINCURATE_SHARDS", "SLURM_PROCID": "SLURM_NTASKS", "RANK": "WORLD_SIZE"}


def _read(read: Callable[[Path], Any], path: str, option: str, expected: str) -> Any:
    """The content of an option's file, read by a function of `core.foreign`."""
    try:
        return read(Path(path))
    except (OSError, ValueError) as error:
        why = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
        raise InputError(f"{option}: cannot read {path}: {why}; expected {expected}.") from error


def _system(value: str) -> str:
    if not value.startswith("@"):
        return value
    text: str = _read(read_text, value[1:], "--system", "UTF-8 text")
    # Editors end a file with a line break, which is no part of the message.
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")


def _shots(path: str) -> Any:
    return _read(json_file, path, "--shots", "a JSON list of chat messages")


def _batch_tokens(value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isdecimal() or len(value) > 18 or int(value) < 1:
        raise InputError(f"--batch-tokens {value[:40]}: expected auto or a number from 1.")
    return int(value)


def read_split(value: str) -> Split:
    """The part of a run for a value of `--shard`: I/N, or `auto` for the variables of a scheduler.

    Raises:
        InputError: it is neither `auto` nor I/N, or the variables name no part.
    """
    if value == "auto":
        return split_of_job(os.environ)
    part = re.fullmatch(r"(\d{1,18})/(\d{1,18})", value)
    if not part or not 1 <= int(part[1]) <= int(part[2]):
        raise InputError(f"--shard {value}: expected I/N with I from 1 to N, such as 1/4, or auto.")
    return Split(int(part[1]), int(part[2]))


def split_of_job(environment: Mapping[str, str]) -> Split:
    """This process's part of a Slurm array, a Kubernetes Job, a Slurm step or a torchrun job, in this order.

    A Slurm array comes first because its tasks also have the variables of a step, usually of one process. An
    empty variable counts as not set.

    Raises:
        InputError: the variables are not set or inconsistent: a wrong part would leave rows unscored.
    """

    def number(name: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", value := environment.get(name, "").strip()):
            raise InputError(f"--shard auto: {name} is {value!r}, not a whole number; give --shard I/N.")
        return int(value)

    if any(environment.get(f"{_ARRAY}{name}", "").strip() for name in ("ID", "COUNT")):
        task, first, last, count = (number(f"{_ARRAY}{name}") for name in ("ID", "MIN", "MAX", "COUNT"))
        if last - first != count - 1 or not first <= task <= last:
            raise InputError(
                f"--shard auto: task {task} is not one of {count} array ids without gaps from {first} to "
                f"{last}; number the tasks as --array=1-{count}, or give --shard I/N."
            )
        return Split(task - first + 1, count, f"{_ARRAY}ID")
    for index, count_name in _RANKS.items():
        if environment.get(index, "").strip():
            rank, parts = number(index), number(count_name)
            if rank >= parts:
                raise InputError(f"--shard auto: {index}={rank} is not below {count_name}={parts}.")
            return Split(rank + 1, parts, index)
    pairs = ", ".join(f"{index} with {count}" for index, count in _RANKS.items())
    raise InputError(
        f"--shard auto: none of these variables is set: {_ARRAY}ID with {_ARRAY}COUNT, {pairs}; give "
        "--shard I/N."
    )


def _in_order(signals: tuple[Signal, ...]) -> tuple[Signal, ...]:
    """The signals in the order of `SIGNALS`."""
    if SIGNALS[0] not in signals:
        names = ",".join(signals)
        raise InputError(f"--signals {names}: angle is always computed; write angle,{names}.")
    return tuple(name for name in SIGNALS if name in signals)


def check_shots(value: Any) -> list[dict[str, Any]]:
    """The examples of `--shots`: a JSON list of {role, content}, user and assistant in turn.

    Raises:
        InputError: the value has another form.
    """
    roles = ("user", "assistant")
    good = isinstance(value, list) and all(
        isinstance(m, dict) and isinstance(m.get("content"), str) and m.get("role") == roles[i % 2]
        for i, m in enumerate(value)
    )
    if not good or len(value) % 2:
        raise InputError(
            "--shots: expected a JSON list of messages, user and assistant in turn: "
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].'
        )
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _as_texts(value: object) -> list[str]:
    return [str(each) for each in ([value] if isinstance(value, str | Path) else cast("list[Any]", value))]


class DeviceConfig(BaseModel):
    """The device and numeric settings of a command with one process."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    device: Annotated[str, Option("auto, cpu, cuda or cuda:N.", MACHINE, metavar="NAME")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Option("Of the model. auto: float32 on a CPU, bfloat16 on a GPU that supports it.", MACHINE),
    ] = "auto"
    threads: Annotated[
        int | None,
        Field(ge=1, le=MOST_THREADS),
        Option("CPU threads of a process. Default: torch's, shared among processes.", MACHINE),
    ] = None
    batch_tokens: Annotated[
        int | None,
        Field(ge=1),
        Option(
            "Tokens in a batch; auto depends on the device's memory.",
            MACHINE,
            metavar="N",
            read=_batch_tokens,
            shown="auto",
        ),
    ] = None


class MachineConfig(DeviceConfig):
    """The devices and numeric settings of scoring."""

    backend: Annotated[
        Literal["auto", "triton", "torch"],
        Option("Of the angle code. auto: the Triton kernel on a GPU, PyTorch on a CPU.", MACHINE),
    ] = "auto"
    workers: Annotated[
        Annotated[int, Field(ge=1, le=100_000)] | Literal["all"] | None,
        Option(
            "Processes. Default: one on a CPU, one for each GPU of a kind; on Ray as many as fit.",
            MACHINE,
            metavar="N|all",
            read=read_workers,
        ),
    ] = None


class ScoreConfig(MachineConfig, ClusterConfig):
    """The settings of `gaincurate score`, under the names of its options."""

    data: Annotated[
        str,
        AfterValidator(lambda data: located(data) and data),  # refuses a URL that may hold a secret
        Option(
            "File (.json .jsonl .parquet .arrow .csv, also .gz), glob, folder, save_to_disk folder, all of "
            "them also in an object store (s3://, gs://, az://), or Hub id (owner/name, with :config and "
            "@revision where wanted).",
            metavar="DATA",
            argument=True,
        ),
    ]
    model: Annotated[
        str,
        Option(
            "Hub id (owner/name or owner/name@revision), folder, .gguf file, or 'demo'.",
            names=("--model", "-m"),
            metavar="NAME",
        ),
    ]
    out: Annotated[
        Path,
        BeforeValidator(located),
        Option("Folder for the scored set.", names=("--out", "-o"), stores=True),
    ]
    prompt_column: Annotated[
        str | None,
        Option("Column with the prompt; a.b is a struct's field. Default: by name.", READING, metavar="NAME"),
    ] = None
    answer_column: Annotated[
        str | None,
        Option("Column with the answer; part of the id. Default: by name.", READING, metavar="NAME"),
    ] = None
    id_column: Annotated[
        str | None,
        Option(
            "Column with unique ids. Default: gc_id, else a hash of the content.", READING, metavar="NAME"
        ),
    ] = None
    tools_column: Annotated[
        str | None,
        Option(
            "Column with the tools of a row: a list of JSON schemas, or its JSON text. none: no tools. "
            "Default: tools, if there is one.",
            READING,
            metavar="NAME",
        ),
    ] = None
    system: Annotated[
        str | None, Option("System message for every row; @FILE reads it from a file.", READING, read=_system)
    ] = None
    system_override: Annotated[bool, Option("Replace rows' own system messages by --system.", READING)] = (
        False
    )
    shots: Annotated[
        list[dict[str, Any]],
        AfterValidator(check_shots),
        Option(
            "JSON list of chat messages put after the system message.", READING, metavar="FILE", read=_shots
        ),
    ] = Field(default_factory=list)
    template_kwargs: Annotated[
        dict[str, Any],
        AfterValidator(without_nan),
        Option(
            "JSON object with extra variables for the chat template.",
            READING,
            metavar="JSON",
            read=lambda value: json_object(value, "--template-kwargs", '{"enable_thinking": false}'),
        ),
    ] = Field(default_factory=dict)
    split: Annotated[str | None, Option("Split of a Hub set or folder.", READING, metavar="NAME")] = None
    limit: Annotated[int | None, Field(ge=1), Option("Take the first rows only.")] = None
    layer: Annotated[int, Option("Decoder layer for --site mlp_input.", ADVANCED)] = -1
    site: Annotated[
        Literal["mlp_input", "final_norm"],
        Option("Scored tensor: input of the layer's feed-forward block, or the final norm.", ADVANCED),
    ] = "mlp_input"
    signals: Annotated[
        tuple[Signal, ...],
        BeforeValidator(names_of),
        AfterValidator(_in_order),
        Option(
            "angle, and any of nll, entropy and embedding, with commas between them. With one of these, the "
            "forward pass runs to its end; nll and entropy need the output head too.",
            metavar="LIST",
            read=names_of,
            shown="angle",
        ),
    ] = ("angle",)
    """The signals to write: `angle` always; `nll` adds `gc_nll`, `entropy` adds `gc_entropy` and
    `gc_last_entropy`, `embedding` adds `gc_embedding`."""
    inter_weight: Annotated[
        float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT), Option("Weight of the inter term in gc_angle.", ADVANCED)
    ] = 1.0
    max_length: Annotated[
        int | None, Field(ge=1), Option("Longest whole prompt in tokens. Default: the model's.", READING)
    ] = None
    on_overlong: Annotated[
        Literal["error", "truncate", "skip"], Option("What to do with a longer prompt.", READING)
    ] = "error"
    on_error: Annotated[
        Literal["stop", "skip"], Option("What to do with a row that cannot be scored.", READING)
    ] = "stop"
    shard_rows: Annotated[int, Field(ge=1), Option("Source rows per shard.", ADVANCED)] = 1024
    split_run: Annotated[
        Split,
        Option(
            "Write every Nth shard only, from the Ith; for split runs. auto: from the variables of Slurm, "
            "Kubernetes or torchrun.",
            ADVANCED,
            names=("--shard",),
            metavar="I/N|auto",
            read=read_split,
            shown="1/1",
        ),
    ] = Split()
    reuse: Annotated[
        list[str],
        BeforeValidator(_as_texts),
        Option(
            "A finished scored set: rows with the same id and prompt take its scores; may be repeated.",
            metavar="SET",
        ),
    ] = Field(default_factory=list)
    overwrite: Annotated[bool, Option("Delete the set in --out first.")] = False
    allow_pickle: Annotated[bool, Option("Accept pickled weights; they can run code.", ADVANCED)] = False
    trust_remote_code: Annotated[bool, Option("Run a model repository's own code.", ADVANCED)] = False

    @property
    def needs_head(self) -> bool:
        """Whether a signal is computed from logits."""
        return "nll" in self.signals or "entropy" in self.signals

"""Where a run's workers are, as options that scoring and rollouts share.

They stand apart from what joins a Ray because the commands' help reads them.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gaincurate.core.options import RAY, Option
from gaincurate.errors import InputError


def read_workers(value: str) -> int | Literal["all"]:
    """The value of `--workers`.

    Raises:
        InputError: it is neither a number from 1 nor `all`.
    """
    if value != "all" and not (value.isdecimal() and len(value) <= 9 and int(value)):
        raise InputError(f"--workers {value}: expected a number from 1, or all.")
    return "all" if value == "all" else int(value)


WORKERS = partial(Option, metavar="N|all", read=read_workers)
"""Marks the option that says how many workers there are; its help and panel differ."""


class ClusterConfig(BaseModel):
    """Where a run's workers are: in this process and its children, or wherever a Ray has room for them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: Annotated[
        Literal["local", "ray"],
        Option("local: on this machine. ray: on all machines of a Ray cluster.", RAY),
    ] = "local"
    address: Annotated[
        str | None,
        Option(
            "HOST:PORT of a Ray head, or auto for the one of this machine. Default: RAY_ADDRESS, else a Ray "
            "of its own on this machine.",
            RAY,
            metavar="ADDRESS",
        ),
    ] = None
    worker_gpus: Annotated[
        float | None,
        Field(ge=0, le=1),
        Option("GPUs of a worker; a part of one too. Default: 1 where the cluster has GPUs.", RAY),
    ] = None
    worker_cpus: Annotated[
        float | None, Field(gt=0), Option("CPUs of a worker. Default: --threads, else 1.", RAY)
    ] = None
    worker_label: Annotated[
        list[str],
        Option(
            "Only on nodes with this label, such as ray.io/accelerator-type=H200; may be repeated.",
            RAY,
            metavar="KEY=VALUE",
        ),
    ] = Field(default_factory=list)
    wait: Annotated[
        float,
        Field(ge=1),
        Option("Seconds to wait for a worker where there is none.", RAY, metavar="SECONDS"),
    ] = 600.0

    @field_validator("worker_label")
    @classmethod
    def _labels(cls, value: list[str]) -> list[str]:
        for label in value:
            if not all(label.partition("=")):
                raise InputError(f"--worker-label {label}: expected KEY=VALUE.")
        return value

    def check_engine(self) -> None:
        """Check what goes with which engine.

        Raises:
            InputError: an option of Ray without `--engine ray`, or Ray is not installed.
        """
        if self.engine == "local":
            # By value, because a config that was written out names all options.
            for name, field in ClusterConfig.model_fields.items():
                default = field.get_default(call_default_factory=True)
                if name != "engine" and getattr(self, name) != default:
                    raise InputError(f"--{name.replace('_', '-')} goes with --engine ray.")
            if getattr(self, "workers", None) == "all":
                raise InputError("--workers all goes with --engine ray; without it every GPU is used anyway.")
            return
        if importlib.util.find_spec("ray") is None:
            raise InputError("--engine ray needs ray: `pip install 'gaincurate[ray]'`.")

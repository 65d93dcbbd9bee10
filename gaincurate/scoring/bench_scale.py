"""What it costs to have workers on Ray, on this machine: whole runs, and the replacement of a worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gaincurate.core.files import temporary_folder
from gaincurate.core.leases import Event
from gaincurate.core.progress import Progress
from gaincurate.scoring.config import ScaleBenchConfig, ScoreConfig
from gaincurate.scoring.pipeline import score_dataset


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of this machine. Steady is from the first shard's end to the last one's."""

    engine: str
    workers: int
    rows: int
    seconds: float
    first_shard_seconds: float
    steady_rows_per_second: float
    driver_cpu_seconds: float


class _Clock(Progress):
    """When parts were done, and how many rows."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.parts: list[tuple[float, int]] = []
        self._rows = 0

    def part(self, text: str, **also: int) -> None:
        self._rows += also["units"]
        self.parts.append((time.perf_counter() - self.begin, self._rows))


def measure(
    config: ScaleBenchConfig, engine: str, workers: int, hear: Callable[[Event], None] | None = None
) -> Measured:
    """Score the set once into a folder that is deleted."""
    assert config.data is not None
    assert config.model is not None
    clock, cpu = _Clock(), time.process_time()
    with temporary_folder() as folder:
        options: dict[str, Any] = {"engine": engine} if engine == "ray" else {}
        score_dataset(
            ScoreConfig(
                data=config.data,
                model=config.model,
                out=folder / "set",
                shard_rows=config.set_shard_rows,
                threads=1,
                device="cpu",
                workers=workers,
                **options,
            ),
            clock,
            hear,
        )
    (first, before), (last, rows) = clock.parts[0], clock.parts[-1]
    return Measured(
        engine,
        workers,
        rows,
        time.perf_counter() - clock.begin,
        first,
        (rows - before) / (last - first) if last > first else 0.0,
        time.process_time() - cpu,
    )


def replacing(config: ScaleBenchConfig) -> float:
    """Seconds from the death of the only worker on Ray until another one has loaded the model."""
    placed: dict[int, int] = {}
    times: dict[str, float] = {}

    def hear(event: Event) -> None:
        if event.kind == "placed":
            placed[event.worker] = event.value[1]
        elif event.kind == "ready" and "killed" in times:
            times.setdefault("ready", time.perf_counter())
        elif event.kind == "part" and "killed" not in times:
            times["killed"] = time.perf_counter()
            os.kill(placed[event.worker], signal.SIGKILL)

    measure(config, "ray", 1, hear)
    return times["ready"] - times["killed"]

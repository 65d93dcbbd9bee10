"""`gaincurate bench`: measures this machine against its limits and against the naive way.

The angle code is checked before it is timed: a fast wrong answer is no result.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import gaincurate
from gaincurate.cli import output
from gaincurate.cli.options import Command, Group, configured
from gaincurate.core.options import Option
from gaincurate.errors import GaincurateError, InputError, StorageError, reason_of

if TYPE_CHECKING:
    from gaincurate.scoring.config import BenchConfig, KernelBenchConfig

app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Measure this machine: against its limits and the naive way."
)

_SHAPES = {"cuda": [(65536, 3584), (262144, 896)], "cpu": [(8192, 896)]}

_Json = Annotated[bool, Option("Print the figures as JSON.", names=("--json",))]


@app.command(cls=Command)
@configured("gaincurate.scoring.config:KernelBenchConfig")
def kernel(config: KernelBenchConfig, as_json: _Json = False) -> None:
    """Time the angle code against PyTorch, torch.compile and the pairwise matrix, after checking it.

    Example: gaincurate bench kernel --csv kernel.csv
    """
    with output.reporting():
        if (config.tokens is None) != (config.hidden is None):
            raise InputError("--tokens and --hidden go together: both, or neither for this device's default.")
        _give(_kernel(config), config.csv_file, as_json, _print)


def _kernel(config: KernelBenchConfig) -> dict[str, Any]:
    from gaincurate.cli.score import need_scoring_packages

    need_scoring_packages()
    import torch

    from gaincurate.scoring.config import MachineConfig
    from gaincurate.scoring.identity import resolve_machine
    from gaincurate_kernels import bench

    machine = resolve_machine(MachineConfig(device=config.device, dtype=config.dtype))
    chosen = _SHAPES[machine.type]
    if config.tokens is not None and config.hidden is not None:
        chosen = [(config.tokens, config.hidden)]
    for count, _ in chosen:
        if count % config.sample:
            raise InputError(f"--tokens {count} is no multiple of --sample {config.sample}.")
    _make_sure_of(config.csv_file)
    copy = bench.copy_bandwidth(machine.devices[0])
    rows = []
    for count, width in chosen:
        shape = bench.Shape(count, width, config.sample, getattr(torch, machine.dtype))
        try:
            rows += bench.measure(
                shape, machine.devices[0], copy, compiled=machine.type == "cuda", matrix=True
            )
        except bench.WrongResult as error:
            raise GaincurateError(
                f"the angle code is wrong here: {error}. `gaincurate doctor` says more."
            ) from error
    return {
        "date": datetime.date.today().isoformat(),
        "gaincurate": gaincurate.__version__,
        **bench.machine(machine.devices[0]),
        "copy_gigabytes_per_second": copy,
        "measurements": [asdict(row) for row in rows],
    }


def _give(
    document: dict[str, Any], csv_file: Path | None, as_json: bool, show: Callable[[dict[str, Any]], None]
) -> None:
    try:
        if as_json:
            output.as_json(document)
        else:
            show(document)
    finally:  # whatever one place did not take, the other gets
        if csv_file is not None:
            _write_csv(csv_file, document)


def _print(document: dict[str, Any]) -> None:
    facts = {k: v for k, v in document.items() if k not in ("measurements", "copy_gigabytes_per_second")}
    output.text(", ".join(f"{key} {value}" for key, value in facts.items()))
    output.text(f"copy bandwidth: {document['copy_gigabytes_per_second']:,.1f} GB/s, read and written")
    rows = document["measurements"]
    shapes = list(dict.fromkeys((row["tokens"], row["hidden"], row["sample"], row["dtype"]) for row in rows))
    for shape in shapes:
        here = [r for r in rows if (r["tokens"], r["hidden"], r["sample"], r["dtype"]) == shape]
        output.text()
        output.text(f"{shape[0]:,} tokens x {shape[1]:,}, prompts of {shape[2]:,}, {shape[3]}")
        output.table(
            [
                [
                    row["method"],
                    f"{row['milliseconds']:.3f}",
                    f"{row['gigabytes_per_second']:,.1f}",
                    f"{row['percent_of_copy']:.1f}",
                    f"{row['milliseconds'] / here[0]['milliseconds']:.2f}",
                ]
                for row in here
            ],
            ["", "ms", "GB/s", "% of copy", "times as long"],
        )


@app.command(cls=Command)
@configured("gaincurate.scoring.config:BenchConfig")
def score(config: BenchConfig, as_json: _Json = False) -> None:
    """Time scoring against padded batches, one prompt at a time, and the speed of matrix products.

    Example: gaincurate bench score --model demo
    """
    with output.reporting():
        _give(_score(config), config.csv_file, as_json, _print_rates)


def _score(asked: BenchConfig) -> dict[str, Any]:
    from gaincurate.cli.score import need_scoring_packages

    need_scoring_packages()
    import torch

    from gaincurate.scoring.bench import Crew, made_up_prompts, measure
    from gaincurate.scoring.config import DeviceConfig, MachineConfig
    from gaincurate.scoring.cpu import settle_memory
    from gaincurate.scoring.identity import model_max_length, resolve_machine
    from gaincurate.scoring.model import find_model, load_config, load_model
    from gaincurate_kernels import bench

    machine = resolve_machine(MachineConfig(**asked.model_dump(include=set(DeviceConfig.model_fields))))
    if machine.threads:
        torch.set_num_threads(machine.threads)
    if machine.type == "cpu":
        settle_memory()
    if asked.workers is not None and machine.type != "cpu":
        raise InputError("--workers is for a CPU; each GPU has one worker.")
    _make_sure_of(asked.csv_file)
    files = find_model(asked.model)
    config = load_config(files)

    def load(dtype: str) -> Any:
        return load_model(files, config, device=machine.devices[0], dtype=dtype)

    vocab_size = config.get_text_config(decoder=True).vocab_size
    limit = model_max_length(config)
    prompts = made_up_prompts(asked.rows, prefix=asked.prefix, vocab_size=vocab_size, limit=limit)
    with contextlib.ExitStack() as stack:
        crew = None
        if asked.workers is not None:
            each = max(1, torch.get_num_threads() // asked.workers)
            crew = Crew(asked.model, machine.dtype, asked.workers, each, prompts, machine.batch_tokens)
            stack.enter_context(crew)
        rates = measure(
            load(machine.dtype),
            prompts,
            budget=machine.batch_tokens,
            passes=asked.passes,
            one_by_one=asked.one_by_one,
            float32=load("float32") if machine.type == "cpu" and machine.dtype != "float32" else None,
            together=crew,
        )
    return {
        "date": datetime.date.today().isoformat(),
        "gaincurate": gaincurate.__version__,
        **bench.machine(machine.devices[0]),
        "model": asked.model,
        "dtype": machine.dtype,
        "rows": asked.rows,
        "prefix_tokens": asked.prefix,
        "batch_tokens": machine.batch_tokens,
        "measurements": [asdict(rate) for rate in rates],
    }


def _print_rates(document: dict[str, Any]) -> None:
    output.text(", ".join(f"{key} {value}" for key, value in document.items() if key != "measurements"))
    output.text()
    rows = document["measurements"]

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    output.table(
        [
            [
                row["method"],
                f"{row['rows_per_second']:,.2f}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['times_one_by_one']:.2f}",
                share(row["share_of_gemm"]),
                share(row["share_of_fastest"]),
                share(row["share_in_angle"]),
            ]
            for row in rows
        ],
        ["", "rows/s", "tokens/s", "times as fast", "of GEMM speed", "of the fastest", "in angle code"],
    )
    ours, speeds = rows[-1], {row["method"]: row["rows_per_second"] for row in rows}
    sentence = (
        f"{ours['method']}: {ours['times_one_by_one']:.1f} times as many rows a second as a plain forward of "
        "one prompt after the other"
    )
    if "one prompt at a time, float32" in speeds:
        times = ours["rows_per_second"] / speeds["one prompt at a time, float32"]
        sentence += f", {times:.1f} times as many as that in float32"
    if ours["share_of_gemm"]:
        sentence += f", at {share(ours['share_of_gemm'])} of the speed of the matrix products"
    output.text()
    output.text(f"{sentence}.")


def _make_sure_of(path: Path | None) -> None:
    """Find out before minutes of measuring whether the figures can be written; makes the folder."""
    if path is None:
        return
    if path.is_fifo():  # it would be waited for
        raise InputError(f"--csv {path} is a pipe. Give a file; --json prints the figures.")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not os.path.lexists(path)
        path.open("ab").close()
        if fresh:  # a benchmark that fails leaves no empty file; a link to none stays a link
            path.unlink()


def _write_csv(path: Path, document: dict[str, Any]) -> None:
    facts = {key: value for key, value in document.items() if key != "measurements"}
    rows = [{**facts, **row} for row in document["measurements"]]
    with _writing(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write --csv {path}: {reason_of(error)}. Put that right or give another file.",
            path=str(path),
            errno=error.errno,
        ) from error

"""`gaincurate bench`: measures this machine against its limits and against the naive way."""

from __future__ import annotations

import csv
import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import gaincurate
from gaincurate.cli import output
from gaincurate.errors import GaincurateError, InputError, storage_error

app = typer.Typer(no_args_is_help=True, help="Measure this machine: against its limits and the naive way.")

_SHAPES = {"cuda": [(65536, 3584), (262144, 896)], "cpu": [(8192, 896)]}


@app.command()
def kernel(
    tokens: Annotated[int | None, typer.Option(min=64, help="Tokens in a call. Default: by device.")] = None,
    hidden: Annotated[
        int | None, typer.Option(min=1, max=16384, help="Hidden size. Default: by device.")
    ] = None,
    sample: Annotated[int, typer.Option(min=4, help="Tokens of one prompt.")] = 2048,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the states. auto: bfloat16 on a GPU, float32 on a CPU."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write the figures here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time the angle code against PyTorch, torch.compile and the pairwise matrix, after checking it.

    Example: gaincurate bench kernel --csv kernel.csv
    """
    with output.reporting():
        if (tokens is None) != (hidden is None):
            raise InputError("--tokens and --hidden go together: both, or neither for this device's default.")
        shapes = [(tokens, hidden)] if tokens is not None and hidden is not None else None
        found = _kernel(shapes, sample, dtype, device)
        if csv_file is not None:
            _write_csv(csv_file, found)
        if as_json:
            output.as_json(found)
        else:
            _print(found)


def _kernel(shapes: list[tuple[int, int]] | None, sample: int, dtype: str, device: str) -> dict[str, Any]:
    from gaincurate.cli.score import need_scoring_packages

    need_scoring_packages()
    import torch

    from gaincurate.config import ScoreConfig
    from gaincurate.scoring.identity import resolve_machine
    from gaincurate_kernels import bench

    wanted = ScoreConfig(data="", model="", out=Path(), device=device, dtype=dtype)  # type: ignore[arg-type]
    machine = resolve_machine(wanted)
    kind = torch.device(machine.device).type
    copy = bench.copy_bandwidth(machine.device)
    rows = []
    for count, width in shapes or _SHAPES[kind]:
        if count % sample:
            raise InputError(f"--tokens {count} is no multiple of --sample {sample}.")
        shape = bench.Shape(count, width, sample, getattr(torch, machine.dtype))
        try:
            rows += bench.measure(shape, machine.device, copy, compiled=kind == "cuda", matrix=True)
        except bench.WrongResult as error:
            raise GaincurateError(
                f"the angle code is wrong here: {error}. `gaincurate doctor` says more."
            ) from error
    return {
        "date": datetime.date.today().isoformat(),
        "gaincurate": gaincurate.__version__,
        **bench.machine(machine.device),
        "copy_gigabytes_per_second": copy,
        "measurements": [asdict(row) for row in rows],
    }


def _print(found: dict[str, Any]) -> None:
    facts = {k: v for k, v in found.items() if k not in ("measurements", "copy_gigabytes_per_second")}
    output.text(", ".join(f"{key} {value}" for key, value in facts.items()))
    output.text(f"copy bandwidth: {found['copy_gigabytes_per_second']:,.1f} GB/s, read and written")
    rows = found["measurements"]
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


def _write_csv(path: Path, found: dict[str, Any]) -> None:
    facts = {key: value for key, value in found.items() if key != "measurements"}
    rows = [{**facts, **row} for row in found["measurements"]]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise storage_error(path, error) from error

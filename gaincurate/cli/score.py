"""`gaincurate score`: options to a ScoreConfig, and a view of the run."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gaincurate.cli import output
from gaincurate.cli.progress import ProgressView
from gaincurate.cli.score_summary import need_a_row, print_summary
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.locks import Split


def score(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="File (.json .jsonl .parquet .arrow .csv, also .gz), glob, folder, save_to_disk folder "
            "or Hub id (owner/name, with :config and @revision where wanted).",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="Hub id (owner/name or owner/name@revision), folder, .gguf file, or 'demo'."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the scored set.")],
    prompt_column: Annotated[
        str | None, typer.Option(help="Column with the prompt; a.b goes into a struct. Default: found.")
    ] = None,
    answer_column: Annotated[
        str | None, typer.Option(help="Column with the answer, part of the id. Default: found.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column with unique ids. Default: gc_id, else a hash of the content.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="System message for every row; @FILE reads it from a file.")
    ] = None,
    system_override: Annotated[
        bool, typer.Option("--system-override", help="Replace rows' own system messages by --system.")
    ] = False,
    shots: Annotated[
        Path | None, typer.Option(help="JSON list of chat messages put after the system message.")
    ] = None,
    template_kwargs: Annotated[
        str | None, typer.Option(help="JSON object with extra variables for the chat template.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a Hub set or folder.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first rows only.")] = None,
    layer: Annotated[int, typer.Option(help="Decoder layer for --site mlp_input.")] = -1,
    site: Annotated[
        Literal["mlp_input", "final_norm"],
        typer.Option(help="Scored tensor: input of the layer's feed-forward block, or the final norm."),
    ] = "mlp_input",
    signals: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="angle, and what else is wanted: angle,nll,entropy,embedding. Each of the other three makes "
            "the forward run to its end; nll and entropy need the output head too.",
        ),
    ] = "angle",
    logits_memory: Annotated[
        int, typer.Option(min=1, help="MiB that logits may take at a time, for nll and entropy.")
    ] = 512,
    inter_weight: Annotated[float, typer.Option(help="Weight of the inter term in gc_angle.")] = 1.0,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the model. auto: float32 on a CPU, bfloat16 on a GPU."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    backend: Annotated[
        Literal["auto", "triton", "torch"],
        typer.Option(help="Of the angle code. auto: the Triton kernel on a GPU, PyTorch on a CPU."),
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one on a CPU, one for each GPU of a kind.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each. Default: torch's, shared among workers.")
    ] = None,
    batch_tokens: Annotated[
        str, typer.Option(metavar="N", help="Tokens in a batch; auto goes by the device's memory.")
    ] = "auto",
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Longest whole prompt in tokens. Default: the model's.")
    ] = None,
    on_overlong: Annotated[
        Literal["error", "truncate", "skip"], typer.Option(help="What to do with a longer prompt.")
    ] = "error",
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option(help="What to do with a row that cannot be scored.")
    ] = "stop",
    shard_rows: Annotated[int, typer.Option(min=1, help="Source rows per shard.")] = 1024,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Write every Nth shard only, from the Ith; for split runs.")
    ] = "1/1",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the set in --out first.")] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Accept pickled weights; they can run code.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run a model repository's own code.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Score a prompt set and write it as Arrow shards with score columns.

    Run the same command again after an interruption: finished shards are kept. Exits with 2 and the commonest
    reason if every row was rejected.

    Example: gaincurate score gsm8k.parquet --model demo --out scored
    """
    again = f"Run the same command again to go on: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        need_scoring_packages()
        from gaincurate.config import ScoreConfig, check_signals

        config = ScoreConfig(
            data=data,
            model=model,
            out=out,
            prompt_column=prompt_column,
            answer_column=answer_column,
            id_column=id_column,
            system=_system(system),
            system_override=system_override,
            shots=_shots(shots),
            template_kwargs=json_object(template_kwargs, "--template-kwargs", '{"enable_thinking": false}'),
            split=split,
            limit=limit,
            layer=layer,
            site=site,
            signals=check_signals(signals.split(",")),
            logits_memory=logits_memory,
            inter_weight=_weight(inter_weight),
            dtype=dtype,
            device=device,
            backend=backend,
            workers=workers,
            threads=threads,
            batch_tokens=_tokens(batch_tokens),
            max_length=max_length,
            on_overlong=on_overlong,
            on_error=on_error,
            shard_rows=shard_rows,
            split_run=_part(shard),
            overwrite=overwrite,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        from gaincurate.scoring.pipeline import score_dataset

        with ProgressView() as view:
            summary = score_dataset(config, view)
        if as_json:
            output.as_json({**asdict(summary), "out": str(summary.out)})
        else:
            print_summary(summary)
        need_a_row(summary)


def need_scoring_packages() -> None:
    """Say what is missing before anything heavy is imported.

    Raises:
        InputError: torch or transformers is not installed.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"scoring needs {' and '.join(missing)}: `pip install 'gaincurate[score]'`.")


def _read_text(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{option}: cannot read {path}: {(error.strerror or '').lower()}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{option}: {path} is not UTF-8 text.") from error


def _system(value: str | None) -> str | None:
    if value is not None and value.startswith("@"):
        # Editors end a file with a line break that nobody means to train on.
        return _read_text(Path(value[1:]), "--system").removesuffix("\n").removesuffix("\r")
    return value


def _shots(path: Path | None) -> list[dict[str, Any]]:
    if path is None:
        return []
    from gaincurate.scoring.segment import check_shots

    try:
        value = json.loads(_read_text(path, "--shots"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"--shots {path}: broken JSON in line {error.lineno} ({error.msg}); expected a list of "
            "chat messages."
        ) from error
    return check_shots(value, str(path))


def json_object(value: str | None, option: str, example: str) -> dict[str, Any]:
    """What an option that takes a JSON object was given; empty where it was not.

    Raises:
        InputError: it is none.
    """
    if value is None:
        return {}
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{option} {value!r}: expected a JSON object, such as {example}.")
    return found


def _weight(value: float) -> float:
    from gaincurate.config import MAX_WEIGHT

    if not abs(value) <= MAX_WEIGHT:
        raise InputError(f"--inter-weight {value}: expected a number from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}.")
    return value


def _tokens(value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise InputError(f"--batch-tokens {value}: expected auto or a number from 1.")
    return int(value)


def _part(value: str) -> Split:
    from gaincurate.locks import Split

    found = re.fullmatch(r"(\d+)/(\d+)", value)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--shard {value}: expected I/N with I from 1 to N, such as 1/4.")
    return Split(int(found[1]), int(found[2]))

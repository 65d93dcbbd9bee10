"""`gaincurate difficulty`: how hard each prompt is, by rollouts, and predicted from those of a few."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gaincurate.cli import output
from gaincurate.cli.difficulty_fit import fit, predict
from gaincurate.cli.rollout_progress import RolloutView
from gaincurate.cli.score import need_scoring_packages
from gaincurate.errors import InputError
from gaincurate.options import json_object

if TYPE_CHECKING:
    from gaincurate.difficulty.watch import RolloutSummary

app = typer.Typer(
    no_args_is_help=True, help="How hard each prompt is: by rollouts, and predicted from a few."
)
app.command()(fit)
app.command()(predict)

_Scored = Annotated[Path, typer.Argument(metavar="SCORED", help="A finished scored set.")]
_Verifier = Annotated[
    str, typer.Option(help="math, reasoning-gym, exact, or module:function (completion, row) -> 0 to 1.")
]
_Answer = Annotated[
    str | None,
    typer.Option(help="Column with the gold answer. Default: the one that the set was scored with."),
]
_GoldAs = Annotated[
    str | None,
    typer.Option(help="How a gold answer is written when it is verified itself, with {answer} in it."),
]
_Workers = Annotated[int, typer.Option(min=1, help="Processes that verify.")]
_Seconds = Annotated[
    float, typer.Option(help="Processor time of one verification; three times that by the clock.")
]
_Memory = Annotated[int, typer.Option(min=64, help="MiB of address space of a verifying process.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


@app.command()
def rollout(
    scored: _Scored,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the rollout set.")],
    verifier: _Verifier,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Generate here: Hub id, folder, .gguf file, or 'demo'."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Generate there: URL of an OpenAI-compatible server; a key is read from OPENAI_API_KEY."
        ),
    ] = None,
    served_model: Annotated[
        str | None, typer.Option(help="The server's name for the model. Default: its only one.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Completions of each prompt, at most.")] = 8,
    samples_start: Annotated[
        int | None, typer.Option(min=1, help="So many first, and again while the interval is too wide.")
    ] = None,
    interval: Annotated[
        float | None, typer.Option(help="Width of a pass rate's 95 % interval that is narrow enough.")
    ] = None,
    reference: Annotated[
        int | None, typer.Option(min=1, help="So many prompts, drawn by the seed. Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the reference prompts and of the sampling.")] = 0,
    answer_column: _Answer = None,
    gold_as: _GoldAs = None,
    temperature: Annotated[float, typer.Option(help="Of the sampling; above 0.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus of the sampling; 1 for none.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a completion.")] = 1024,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="What to do with a row that cannot be used or a completion that is not judged."),
    ] = "stop",
    verify_workers: _Workers = 2,
    verify_seconds: _Seconds = 10.0,
    verify_memory: _Memory = 4096,
    device: Annotated[str, typer.Option(help="With --model: auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="With --model. auto: float32 on a CPU, bfloat16 on a GPU."),
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="With --model: CPU threads. Default: torch's.")
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --model: rows times (longest prompt + --max-tokens) of a batch. Default: by memory.",
        ),
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Accept pickled weights; they can run code.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run a model repository's own code.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="With --server: requests at a time.")] = 16,
    rate: Annotated[
        float | None, typer.Option(help="With --server: requests begun in a second, at most.")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="With --server: times a request is repeated.")] = 8,
    timeout: Annotated[
        float, typer.Option(help="With --server: seconds without a byte until a request has failed.")
    ] = 600.0,
    no_logprobs: Annotated[
        bool, typer.Option("--no-logprobs", help="With --server: do not ask for log-probabilities.")
    ] = False,
    server_body: Annotated[
        str | None, typer.Option(help="With --server: JSON object with more keys for each request.")
    ] = None,
    shard_prompts: Annotated[int, typer.Option(min=1, help="Prompts per shard.")] = 1024,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the rollout set in --out first.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Sample completions of a scored set's prompts and verify them: what a model can do now.

    Run the same command again after an interruption: every completion that had arrived is kept.

    Example: gaincurate difficulty rollout scored --out rollouts --model demo --verifier math --reference 256
    """
    again = f"Run the same command again to go on: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        _need_packages(server is not None)
        from gaincurate.difficulty.config import make_config
        from gaincurate.difficulty.rollout import roll_out

        config = make_config(
            scored=scored, out=out, model=model, server=server, served_model=served_model, samples=samples,
            samples_start=samples_start, interval=interval, reference=reference, seed=seed, verifier=verifier,
            answer_column=answer_column, gold_as=gold_as, verify_workers=verify_workers,
            verify_seconds=verify_seconds, verify_memory=verify_memory, temperature=temperature, top_p=top_p,
            max_tokens=max_tokens, on_error=on_error, shard_prompts=shard_prompts, overwrite=overwrite,
            device=device, dtype=dtype, threads=threads, batch_tokens=batch_tokens, allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code, concurrency=concurrency, rate=rate, retries=retries,
            timeout=timeout, logprobs=not no_logprobs,
            server_body=json_object(server_body or "{}", "--server-body", '{"top_k": 20}'),
        )  # fmt: skip
        with RolloutView() as view:
            summary = roll_out(config, view)
        if as_json:
            output.as_json({**asdict(summary), "out": str(summary.out)})
        else:
            _print(summary)


@app.command()
def verify(
    scored: _Scored,
    verifier: _Verifier,
    answer_column: _Answer = None,
    gold_as: _GoldAs = None,
    broken: Annotated[
        Path | None, typer.Option(help="Also write the broken rows here, one line of JSON each.")
    ] = None,
    verify_workers: _Workers = 2,
    verify_seconds: _Seconds = 10.0,
    verify_memory: _Memory = 4096,
    as_json: _Json = False,
) -> None:
    """Verify each row's own gold answer: it must get a reward of 1. Exits with 2 where one does not.

    Example: gaincurate difficulty verify scored --verifier math
    """
    with output.reporting():
        from gaincurate.difficulty.gold import broken_lines, check_gold
        from gaincurate.difficulty.prompts import answer_column as find_answer
        from gaincurate.difficulty.prompts import parts
        from gaincurate.difficulty.verify import VerifierConfig, VerifierPool
        from gaincurate.files import write_atomic
        from gaincurate.scored_set import ScoredSet

        config = VerifierConfig(verifier, verify_seconds, verify_memory, verify_workers, gold_as)
        rows = ScoredSet(scored)
        answer = find_answer(rows, answer_column, needed=True)
        assert answer is not None
        with RolloutView() as view, VerifierPool(config) as pool:
            found = check_gold(rows, parts(range(len(rows)), 1024), answer, config, pool, view)
        if broken is not None:
            write_atomic(broken, broken_lines(found))
        if as_json:
            output.as_json({"rows": len(rows), "answer_column": answer, "broken": found})
        else:
            of, verb = output.counted(len(rows), "gold answer"), "is" if len(found) == 1 else "are"
            output.text(f"{scored}: {len(found):,} of {of} ({answer!r}) {verb} broken")
            for gc_id, reason in list(found.items())[:10]:
                output.text(f"  {gc_id}: {reason}")
        if found:
            raise typer.Exit(2)


def _need_packages(server: bool) -> None:
    """Say what is missing before anything heavy is imported."""
    if not server:
        need_scoring_packages()
        return
    missing = [name for name in ("httpx2", "tenacity") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--server needs {' and '.join(missing)}: `pip install 'gaincurate[difficulty]'`.")


def _print(summary: RolloutSummary) -> None:
    if summary.generated:
        output.text(
            f"generated {output.counted(summary.generated, 'completion')}, "
            f"{output.counted(summary.tokens, 'token')} in "
            f"{summary.elapsed:.1f} s"
        )
    output.text(
        f"{summary.out} is complete: {output.counted(summary.rollouts, 'rollout')} of "
        f"{output.counted(summary.prompts, 'prompt')}, mean reward "
        f"{output.number(summary.pass_rate, '.3f')}, {output.counted(summary.rejected, 'prompt')} rejected"
    )
    if summary.rejected:
        output.text(f"  the rejected prompts and why: {summary.out / 'rejected.jsonl'}")
    if summary.unjudged:
        verbs = "was not judged and has" if summary.unjudged == 1 else "were not judged and have"
        output.text(f"  {output.counted(summary.unjudged, 'rollout')} {verbs} no reward:")
        for reason, count in summary.reasons.items():
            output.text(f"    {output.counted(count, 'time')}: {reason}")
    if summary.other_lengths:
        prompts, one = output.counted(summary.other_lengths, "prompt"), summary.other_lengths == 1
        output.note(
            f"warning: {prompts} {'has' if one else 'have'} another number of tokens than when "
            f"{'it was' if one else 'they were'} scored: the chat template or the tokenizer is not the same"
        )
    if not summary.rollouts:
        output.note("warning: there is no rollout in the set")

"""`gaincurate difficulty`: how hard each prompt is, by rollouts, and predicted from those of a few."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaincurate.cli import output
from gaincurate.cli.difficulty_fit import fit, predict
from gaincurate.cli.options import Command, Group, configured
from gaincurate.cli.progress import ProgressView
from gaincurate.cli.score import need_scoring_packages
from gaincurate.core.options import Option
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.difficulty.config import RolloutConfig, VerifyingConfig
    from gaincurate.difficulty.rollout_shard import RolloutSummary
    from gaincurate.schedule.forecast import Forecast, ForecastConfig, Share

app = typer.Typer(
    cls=Group, no_args_is_help=True, help="How hard each prompt is: by rollouts, and predicted from a few."
)
app.command(cls=Command)(fit)
app.command(cls=Command)(predict)

_Json = Annotated[bool, Option("Print the summary as JSON.", names=("--json",))]


@app.command(cls=Command)
@configured("gaincurate.difficulty.config:RolloutConfig")
def rollout(config: RolloutConfig, as_json: _Json = False) -> None:
    """Sample completions of a scored set's prompts and verify them: what a model can do now.

    Run the same command again after an interruption: every completion that had arrived is kept.

    Example: gaincurate difficulty rollout scored --out rollouts --model demo --verifier math --reference 256
    """
    again = f"Run the same command again to go on: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        _need_packages(config.server is not None)
        from gaincurate.difficulty.rollout import roll_out

        with ProgressView() as view:
            summary = roll_out(config, view)
        if as_json:
            output.as_json({**asdict(summary), "out": str(summary.out)})
        else:
            _print(summary)


@app.command(cls=Command)
@configured("gaincurate.difficulty.config:VerifyingConfig")
def verify(
    config: VerifyingConfig,
    broken: Annotated[Path | None, Option("Also write the broken rows here, one line of JSON each.")] = None,
    as_json: _Json = False,
) -> None:
    """Verify each row's own gold answer: it must get a reward of 1. Exits with 2 where one does not.

    Example: gaincurate difficulty verify scored --verifier math
    """
    with output.reporting():
        from gaincurate.core.files import write_atomic
        from gaincurate.core.scored_set import ScoredSet
        from gaincurate.difficulty.prompts import answer_column as find_answer
        from gaincurate.difficulty.prompts import parts
        from gaincurate.difficulty.verifier import VerifierPool, broken_lines, check_gold, verifier_of

        scored, judge = config.scored, verifier_of(config)
        rows = ScoredSet(scored)
        answer = find_answer(rows, config.answer_column, needed=True)
        assert answer is not None
        with ProgressView() as view, VerifierPool(judge) as pool:
            broken_answers = check_gold(rows, parts(range(len(rows)), 1024), answer, judge, pool, view)
        if broken is not None:
            write_atomic(broken, broken_lines(broken_answers))
        if as_json:
            output.as_json({"rows": len(rows), "answer_column": answer, "broken": broken_answers})
        else:
            of, verb = output.counted(len(rows), "gold answer"), "is" if len(broken_answers) == 1 else "are"
            output.text(f"{scored}: {len(broken_answers):,} of {of} ({answer!r}) {verb} broken")
            for gc_id, reason in list(broken_answers.items())[:10]:
                output.text(f"  {gc_id}: {reason}")
        if broken_answers:
            raise typer.Exit(2)


@app.command(cls=Command)
@configured("gaincurate.schedule.forecast:ForecastConfig")
def forecast(
    config: ForecastConfig,
    out: Annotated[
        Path | None,
        Option("Also write it here as JSON, for `schedule status --forecast`.", names=("--out", "-o")),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Forecast what a choice of prompts could gain in a training, from rollouts of a random sample.

    Example: gaincurate difficulty forecast scored --outcomes rollouts --group 8
    """
    with output.reporting():
        from gaincurate.core.files import write_json
        from gaincurate.schedule.forecast import forecast as compute
        from gaincurate.schedule.forecast import read_references

        rates, tokens = read_references(config)
        result = compute(config, rates, tokens)
        if out is not None:
            write_json(out, result.as_json())
        if as_json:
            output.as_json(result.as_json())
        else:
            _print_forecast(result)


def _print_forecast(result: Forecast) -> None:
    def percent(share: Share) -> str:
        return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"

    of = output.counted(result.references, "prompt")
    output.text(
        f"from {output.counted(result.rollouts, 'rollout')} of {of}, "
        f"for groups of {result.group} and {result.tokens:,.0f} tokens per completion:"
    )
    output.text(f"  prompts whose groups hardly ever differ now: {percent(result.silent)}")
    output.text(f"  of all prompts, out of reach: {percent(result.hopeless)}")
    output.text(f"  groups of a uniform step that teach nothing: {percent(result.wasted)}")
    rows = [
        [
            each.strategy,
            percent(each.differ),
            f"{each.per_thousand.value:.3g} ({each.per_thousand.low:.3g} to {each.per_thousand.high:.3g})",
            f"{each.times.value:.2f} ({each.times.low:.2f} to {each.times.high:.2f})",
        ]
        for each in (result.uniform, *result.strategies, result.oracle)
    ]
    output.table(rows, ["strategy", "groups that differ", "per 1,000 tokens", "times uniform"])
    for sentence in result.advice:
        output.text(f"- {sentence}")


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
        prompts, single = output.counted(summary.other_lengths, "prompt"), summary.other_lengths == 1
        output.note(
            f"warning: {prompts} {'has' if single else 'have'} another number of tokens than when "
            f"{'it was' if single else 'they were'} scored: the chat template or the tokenizer is not the "
            "same"
        )
    if not summary.rollouts:
        output.note("warning: there is no rollout in the set")

"""`gaincurate difficulty`: how hard each prompt is, by rollouts, and predicted from those of a few.

For a prediction the newest round of a file is taken, and a file of several models is refused: a prediction is
for one policy.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, Command, Group, configured, pair
from gaincurate.cli.progress import ProgressView
from gaincurate.cli.report import print_blocks
from gaincurate.cli.score import need_packages
from gaincurate.core.options import Option
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.core.outcomes import Rules
    from gaincurate.core.scored_set import ScoredSet
    from gaincurate.difficulty.config import FitConfig, PredictConfig, RejudgeConfig, RolloutConfig
    from gaincurate.difficulty.pass_rates import PassRates
    from gaincurate.difficulty.predict import MethodName
    from gaincurate.difficulty.rejudge import Rejudged
    from gaincurate.difficulty.rollout import RolloutSummary
    from gaincurate.schedule.forecast import Forecast, ForecastConfig, Share

app = typer.Typer(
    cls=Group, no_args_is_help=True, help="How hard each prompt is: by rollouts, and predicted from a few."
)
_LISTED = 10
_WHAT = {"difficulty": "the failure rate", "variance": "p (1 - p)"}


@app.command(cls=Command)
@configured("gaincurate.difficulty.config:FitConfig")
def fit(config: FitConfig, as_json: AsJson = False) -> None:
    """Fit the DOTS difficulty predictor on the pass rates of one or more policies.

    Example: gaincurate difficulty fit scored --rollouts a.parquet --rollouts b.parquet --out adapter
    """
    with output.reporting():
        need_packages("difficulty fit", ["torch"])
        from gaincurate.core.scored_set import open_scores
        from gaincurate.difficulty.train import fit_on

        opened = open_scores(config.scored[0]) if len(config.scored) == 1 else None
        rates = [rate for path in config.outcomes for rate in _read(path, config.reward_range, opened)]
        out = config.out
        report = fit_on(config.scored, rates, out, config.recipe, watch=_print_epoch)
        if as_json:
            output.as_json({**report, "out": out})
            return
        losses, prompts = report["losses"], output.counted(report["prompts"], "prompt")
        output.text(
            f"{out}: fitted on {output.counted(report['instances'], 'failure rate')} of "
            f"{output.counted(len(rates), 'policy', 'policies')}, {prompts}, cross-entropy {losses[0]:.4f} "
            f"in the first epoch and {losses[-1]:.4f} in the last"
        )
        figures = {"Pearson (95 %)": "pearson", "Brier (95 %)": "brier", "noise ceiling (95 %)": "ceiling"}
        output.records(
            report["policies"],
            {
                "policy": "name",
                "trained on": ("trained", ","),
                "held out": ("held_out.count", ","),
                **{head: partial(_held_out, name) for head, name in figures.items()},
            },
        )
        output.text(
            f"  next: gaincurate difficulty predict SCORED --rollouts FILE --adapter {shlex.quote(str(out))}"
        )


@app.command(cls=Command)
@configured("gaincurate.difficulty.config:PredictConfig")
def predict(config: PredictConfig, as_json: AsJson = False) -> None:
    """Predict every prompt's failure rate and write it as the column gc_difficulty.

    Example: gaincurate difficulty predict scored --rollouts rollouts --adapter adapter
    """
    with output.reporting():
        chosen = {"--adapter": config.adapter, "--method": config.method, "--rates": config.rates}
        given = [option for option, value in chosen.items() if value is not None]
        if len(given) > 1:
            raise InputError(f"give one of {' and '.join(given)}.")
        name: MethodName = config.method or "gp"
        if config.method is None and given:
            name = "adapter" if config.adapter is not None else "rates"
        from gaincurate.core.scored_set import open_scores
        from gaincurate.difficulty.metrics import COLUMNS
        from gaincurate.difficulty.predict import predict as compute
        from gaincurate.difficulty.predict import qualities, write

        adapter = None
        if config.adapter is not None:
            need_packages("--adapter", ["torch"])
            from gaincurate.difficulty.predictor import load_adapter

            adapter = load_adapter(config.adapter)
        opened = open_scores(config.scored)
        rates = _one_policy(config.outcomes, config.reward_range, opened)
        asked = config.model_dump(include={"group_column", "references", "seed", "target"})
        prediction = compute(opened, rates, name, adapter=adapter, columns=config.rates or (), **asked)
        write(opened, prediction, config.out)
        figures = qualities(prediction)
        if as_json:
            counts = {"rows": len(prediction.ids), "observed": prediction.observed}
            output.as_json({**counts, **figures, "how": prediction.how})
            return
        output.text(
            f"{config.out or config.scored}: {COLUMNS[prediction.target]} written, "
            f"{_WHAT[prediction.target]} of {output.counted(len(prediction.ids), 'row')}; "
            f"{prediction.observed:,} as observed ({rates.name}), the others predicted by {name}"
        )
        if prediction.buckets is not None:
            strength = output.number(prediction.how["strength"], ".3g")
            output.text(f"  the rates count for {strength} rollouts of each prompt")
            weights = prediction.how["weights"].items()
            output.table([[source, f"{weight:.2f}"] for source, weight in weights], ["source", "weight"])
            sizes = Counter(prediction.buckets).most_common()
            output.text("  gc_bucket: " + ", ".join(f"{count:,} {bucket}" for bucket, count in sizes))
        if aims := prediction.how.get("aims"):
            output.text(
                "  p (1 - p) of the best quarter of references that were not seen: "
                f"{output.number(aims['difficulty'], '.4f')} by the failure rate nearest .5, "
                f"{output.number(aims['variance'], '.4f')} by the highest p (1 - p)"
            )
        references, how = figures["on_halves"], "one half from the other, means of ten halves"
        if references is None:
            references, how = figures["on_references"], "each from the others"
        judged = [(f"{references['count']:,} references, {how}", references)]
        if others := figures["on_others"]:
            judged.append((f"{others['count']:,} observed prompts that are no references", others))
        from gaincurate.report.contents import quality

        print_blocks(quality(judged, _WHAT[prediction.target]))


def _held_out(name: str, policy: dict[str, Any]) -> str:
    """A figure of a policy on prompts that no batch had, with its interval."""
    if policy["held_out"] is None:
        return "-"
    figure = policy["held_out"][name]
    text, around = output.number(figure["value"], ".3f"), figure["interval"]
    return text if around is None else f"{text} ({around[0]:.3f} to {around[1]:.3f})"


def _print_epoch(epoch: int, epochs: int, loss: float) -> None:
    output.note(f"epoch {epoch} of {epochs}: cross-entropy {loss:.4f}")


def _rules(value: str | list[float] | None) -> Rules | None:
    from gaincurate.core.outcomes import Rules

    if value is None:
        return None
    low, high = pair(value, "--reward-range")
    if not -math.inf < low < high < math.inf:
        raise InputError(f"--reward-range {low:g},{high:g}: the first must be less than the second.")
    return Rules(low, high)


def _read(path: Path, reward_range: Any, scored: ScoredSet | None) -> list[PassRates]:
    from gaincurate.schedule.observations import pass_rates_of

    return pass_rates_of(path, _rules(reward_range), scored=scored)


def _one_policy(paths: Sequence[Path], reward_range: Any, scored: ScoredSet) -> PassRates:
    """The newest round of each file, together; a file of several models is refused."""
    from gaincurate.difficulty.pass_rates import pooled

    newest = []
    for path in paths:
        policies = _read(path, reward_range, scored)
        if len(policies) > 1 and policies[-1].round is None:
            names = ", ".join(policy.name for policy in policies[:3])
            raise InputError(
                f"--rollouts {path} has {len(policies)} models ({names}, ...); a prediction is for one: "
                "give a file with that one's rows alone.",
                path=str(path),
            )
        if len(policies) > 1:
            taken = f"round {policies[-1].round} is the newest of {len(policies)} and the one taken"
            output.note(f"{path}: {taken}")
        newest.append(policies[-1])
    return newest[0] if len(newest) == 1 else pooled(newest)


@app.command(cls=Command)
@configured("gaincurate.difficulty.config:RolloutConfig")
def rollout(
    config: RolloutConfig,
    dry_run: Annotated[bool, Option("Count prompts, completions and tokens, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sample completions of a scored set's prompts and verify them: what a model can do now.

    Run the same command again after an interruption: every completion that had arrived is kept.

    Example: gaincurate difficulty rollout scored --out rollouts --model demo --verifier math --reference 256
    """
    with output.reporting(resumes=True):
        if dry_run:
            _print_outline(config, as_json)
            return
        if config.server is None:
            need_packages("scoring")
        else:
            need_packages("--server", ["httpx2"], "difficulty")
        with ProgressView() as view:
            view.loading("the engine" if config.server is not None else "torch and the model")
            from gaincurate.difficulty.rollout import roll_out

            summary = roll_out(config, view)
        output.result(summary, as_json, _print_summary)


@app.command(cls=Command)
@configured("gaincurate.difficulty.config:RejudgeConfig")
def rejudge(config: RejudgeConfig, as_json: AsJson = False) -> None:
    """Judge the completions of a rollout set again with another verifier, and compare the verdicts.

    It writes a new set and lists the prompts where most completions agree on an answer that is not the gold.

    Example: gaincurate difficulty rejudge rollouts --verifier math --out rollouts-math
    """
    with output.reporting(resumes=True):
        from gaincurate.difficulty.rejudge import rejudge as compute

        with ProgressView() as view:
            result = compute(config, view)
        if not as_json:
            _print_rejudged(result)
            return
        facts = {**asdict(result), "disagreements": result.disagreements}
        for name in ("false_negatives", "false_positives"):
            count, of = getattr(result, name)
            facts[name] = {"count": count, "of": of, "rate": count / of if of else None}
        output.as_json(facts)


def _print_rejudged(result: Rejudged) -> None:
    from gaincurate.difficulty.rejudge import VERDICTS

    output.text(
        f"{result.out} is complete: {output.counted(result.rollouts, 'rollout')}, "
        f"{output.counted(result.disagreements, 'verdict')} of {result.new} differ from {result.old}"
    )
    verdicts = [each for each in VERDICTS if result.count([each], VERDICTS) + result.count(VERDICTS, [each])]
    rows = [[old, *(f"{result.count([old], [new]):,}" for new in verdicts)] for old in verdicts]
    output.table(rows, ["before", *(f"now {verdict}" for verdict in verdicts)])
    for kind, (count, of), now in (
        ("false negatives", result.false_negatives, "right"),
        ("false positives", result.false_positives, "wrong"),
    ):
        rate = f"{count / of:.1%}" if of else "-"
        output.text(f"  {kind} of {result.old}: {rate} ({count:,} of {of:,} that are {now} now)")
    if not result.agreements:
        return
    prompts = output.counted(len(result.agreements), "prompt")
    output.text(f"{prompts} where most completions agree on an answer that is not the gold: read them")
    output.records(
        result.agreements[:_LISTED],
        {
            "prompt": lambda each: output.short_id(each.gc_id),
            "agree": lambda each: f"{each.agreeing} of {each.completions}",
            "answer": lambda each: output.plain(each.answer[:40]),
            "gold": lambda each: output.plain(each.gold[:40]),
        },
    )
    if len(result.agreements) > _LISTED:
        output.text(f"  and {len(result.agreements) - _LISTED:,} more: --json lists all")


@app.command(cls=Command)
@configured("gaincurate.schedule.forecast:ForecastConfig")
def forecast(config: ForecastConfig, as_json: AsJson = False) -> None:
    """Forecast what a choice of prompts could gain in a training, from rollouts of a random sample.

    Example: gaincurate difficulty forecast scored --rollouts rollouts --group 8
    """
    with output.reporting():
        from gaincurate.schedule.forecast import forecast as compute
        from gaincurate.schedule.forecast import read_references

        output.result(compute(config, read_references(config)), as_json, _print_forecast)


def _print_forecast(result: Forecast) -> None:
    def shown(share: Share, form: str = ".0%") -> str:
        return f"{share.value:{form}} ({share.low:{form}} to {share.high:{form}})"

    of = output.counted(result.references, "prompt")
    output.text(f"from {output.counted(result.rollouts, 'rollout')} of {of}, for groups of {result.group}:")
    output.text(f"  prompts whose groups hardly ever differ now: {shown(result.silent)}")
    output.text(f"  of all prompts, out of reach: {shown(result.hopeless)}")
    output.text(f"  groups of a uniform step that teach nothing: {shown(result.wasted)}")
    for source in result.sources:
        output.text(f"  {source.name}: {shown(source.tells)} of what true pass rates would tell apart")
    output.records(
        (result.uniform, *result.strategies, result.oracle),
        {
            "strategy": "strategy",
            "groups that differ": lambda each: (
                f"{each.differ.value * result.budget:.0f} of {result.budget:,}"
            ),
            "effective share": lambda each: shown(each.differ),
            "times uniform": lambda each: shown(each.times, ".2f"),
        },
    )
    for sentence in result.advice:
        output.text(f"- {sentence}")


def _print_outline(config: RolloutConfig, as_json: bool) -> None:
    from gaincurate.difficulty.rollout import outline

    facts = outline(config)
    if as_json:
        output.as_json(facts)
        return
    output.fitted(
        f"{config.out}: {output.counted(facts['prompts'], 'prompt')} of {facts['prompt_tokens']:,} tokens, "
        f"{facts['shards_done']:,} of {output.counted(facts['shards'], 'shard')} done"
    )
    output.fitted(
        f"  {output.counted(facts['completions'], 'completion')} at most, of {config.max_tokens:,} tokens at "
        f"most: {facts['completion_tokens']:,} in all"
    )
    output.text("  nothing was written")


def _print_summary(summary: RolloutSummary) -> None:
    if summary.generated:
        completions = output.counted(summary.generated, "completion")
        tokens = output.counted(summary.tokens, "token")
        output.text(f"generated {completions}, {tokens} in {summary.elapsed:.1f} s")
    output.text(
        f"{summary.out} is complete: {output.counted(summary.rollouts, 'rollout')} of "
        f"{output.counted(summary.prompts, 'prompt')}, mean reward "
        f"{output.number(summary.pass_rate, '.3f')}, {output.counted(summary.rejected, 'prompt')} rejected"
    )
    if summary.rejected:
        output.text(f"  the rejected prompts and why: {summary.out / 'rejected.jsonl'}")
    if summary.unjudged:
        output.text(f"  {output.counted(summary.unjudged, 'rollout')} without a reward, not judged:")
        for reason, count in summary.reasons.items():
            output.text(f"    {output.counted(count, 'time')}: {reason}")
    if summary.other_lengths:
        output.note(
            f"warning: {output.counted(summary.other_lengths, 'prompt')} with another number of tokens than "
            "when the set was scored: the chat template or the tokenizer is not the same"
        )
    if summary.warning is not None:
        output.note(f"warning: {summary.warning}")
    if not summary.rollouts:
        output.note("warning: there is no rollout in the set")

"""`gaincurate difficulty`: the difficulty of each prompt, from rollouts or predicted from a few prompts.

A prediction uses the newest round of a file and refuses a file of several models, because it is for one
policy.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured, group, pair
from gaincurate.cli.output import counted, number
from gaincurate.cli.progress import ProgressView
from gaincurate.cli.report import print_blocks
from gaincurate.cli.score import need_packages
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.core.scored_set import ScoredSet
    from gaincurate.difficulty.config import FitConfig, PredictConfig, RejudgeConfig, RolloutConfig
    from gaincurate.difficulty.pass_rates import PassRates
    from gaincurate.difficulty.predict import MethodName
    from gaincurate.difficulty.rollout import Rejudged, RolloutSummary
    from gaincurate.schedule.forecast import Forecast, ForecastConfig, Share

_LISTED = 10
_WHAT = {"difficulty": "the failure rate", "variance": "p (1 - p)"}


@configured("gaincurate.difficulty.config:RolloutConfig", resumes=True)
def rollout(config: RolloutConfig, dry_run: bool = False, as_json: AsJson = False) -> None:
    """Sample completions of a scored set's prompts and verify them: what a model can do now.

    Run the same command again after an interruption: every completion that had arrived is kept.

    Example: gaincurate difficulty rollout scored --out rollouts --model demo --verifier math --reference 256

    Options:
        dry_run: Count prompts, completions and tokens, and write nothing.
    """
    if dry_run:
        from gaincurate.difficulty.rollout import outline

        output.result(outline(config), as_json, partial(_print_outline, config))
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


def _print_outline(config: RolloutConfig, facts: dict[str, Any]) -> None:
    output.fitted(
        f"{config.out}: {counted(facts['prompts'], 'prompt')} of {facts['prompt_tokens']:,} tokens, "
        f"{facts['shards_done']:,} of {counted(facts['shards'], 'shard')} done"
    )
    output.fitted(
        f"  {counted(facts['completions'], 'completion')} at most, of {config.max_tokens:,} tokens at most: "
        f"{facts['completion_tokens']:,} in all"
    )
    output.text("  nothing was written")


def _print_summary(summary: RolloutSummary) -> None:
    if summary.generated:
        completions, tokens = counted(summary.generated, "completion"), counted(summary.tokens, "token")
        output.text(f"generated {completions}, {tokens} in {summary.elapsed:.1f} s")
    output.text(
        f"{summary.out} is complete: {counted(summary.rollouts, 'rollout')} of "
        f"{counted(summary.prompts, 'prompt')}, mean reward {number(summary.pass_rate, '.3f')}, "
        f"{counted(summary.rejected, 'prompt')} rejected"
    )
    if summary.rejected:
        output.text(f"  the rejected prompts and why: {summary.out / 'rejected.jsonl'}")
    if summary.unjudged:
        output.text(f"  {counted(summary.unjudged, 'rollout')} without a reward, not judged:")
        for reason, count in summary.reasons.items():
            output.text(f"    {counted(count, 'time')}: {reason}")
    if summary.other_lengths:
        output.note(
            f"warning: {counted(summary.other_lengths, 'prompt')} with another number of tokens than when "
            "the set was scored: the chat template or the tokenizer is not the same"
        )
    if summary.warning is not None:
        output.note(f"warning: {summary.warning}")
    if not summary.rollouts:
        output.note("warning: there is no rollout in the set")


@configured("gaincurate.difficulty.config:RejudgeConfig", resumes=True)
def rejudge(config: RejudgeConfig, as_json: AsJson = False) -> None:
    """Judge the completions of a rollout set again with another verifier, and compare the verdicts.

    It writes a new set and lists the prompts where most completions agree on an answer that is not the gold.

    Example: gaincurate difficulty rejudge rollouts --verifier math --out rollouts-math
    """
    from gaincurate.difficulty.rollout import rejudge as compute

    with ProgressView() as view:
        result = compute(config, view)
    facts = {**asdict(result), "disagreements": result.disagreements}
    for name in ("false_negatives", "false_positives"):
        count, of = getattr(result, name)
        facts[name] = {"count": count, "of": of, "rate": count / of if of else None}
    output.result(facts, as_json, lambda _: _print_rejudged(result))


def _print_rejudged(result: Rejudged) -> None:
    from gaincurate.difficulty.rollout import VERDICTS

    output.text(
        f"{result.out} is complete: {counted(result.rollouts, 'rollout')}, "
        f"{counted(result.disagreements, 'verdict')} of {result.new} differ from {result.old}"
    )
    verdicts = [each for each in VERDICTS if result.count([each], VERDICTS) + result.count(VERDICTS, [each])]
    rows = [[old, *(f"{result.count([old], [new]):,}" for new in verdicts)] for old in verdicts]
    output.table(rows, ["before", *(f"now {verdict}" for verdict in verdicts)])
    for name, now in (("false_negatives", "right"), ("false_positives", "wrong")):
        count, of = getattr(result, name)
        rate, kind = f"{count / of:.1%}" if of else "-", name.replace("_", " ")
        output.text(f"  {kind} of {result.old}: {rate} ({count:,} of {of:,} that are {now} now)")
    if not result.agreements:
        return
    prompts = counted(len(result.agreements), "prompt")
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


@configured("gaincurate.difficulty.config:FitConfig")
def fit(config: FitConfig, as_json: AsJson = False) -> None:
    """Fit the DOTS difficulty predictor on the pass rates of one or more policies.

    Example: gaincurate difficulty fit scored --rollouts a.parquet --rollouts b.parquet --out adapter
    """
    need_packages("difficulty fit", ["torch"])
    from gaincurate.core.scored_set import open_scores
    from gaincurate.difficulty.predictor import fit_on

    opened = open_scores(config.scored[0]) if len(config.scored) == 1 else None
    rates = [rate for path in config.outcomes for rate in _read(path, config.reward_range, opened)]
    out = config.out
    say = "epoch {} of {}: cross-entropy {:.4f}".format
    report = fit_on(config.scored, rates, out, config.recipe, watch=lambda *at: output.note(say(*at)))
    if as_json:
        output.as_json({**report, "out": out})
        return
    first, last = report["losses"][0], report["losses"][-1]
    output.text(
        f"{out}: fitted on {counted(report['instances'], 'failure rate')} of "
        f"{counted(len(rates), 'policy', 'policies')}, {counted(report['prompts'], 'prompt')}, cross-entropy "
        f"{first:.4f} in the first epoch and {last:.4f} in the last"
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


def _held_out(name: str, policy: dict[str, Any]) -> str:
    """A figure of a policy on held-out prompts, with its interval."""
    if policy["held_out"] is None:
        return "-"
    figure = policy["held_out"][name]
    text, around = number(figure["value"], ".3f"), figure["interval"]
    return text if around is None else f"{text} ({around[0]:.3f} to {around[1]:.3f})"


@configured("gaincurate.difficulty.config:PredictConfig")
def predict(config: PredictConfig, as_json: AsJson = False) -> None:
    """Predict every prompt's failure rate and write it as the column gc_difficulty.

    Example: gaincurate difficulty predict scored --rollouts rollouts --adapter adapter
    """
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
    figures, how, what = qualities(prediction), prediction.how, _WHAT[prediction.target]
    if as_json:
        counts = {"rows": len(prediction.ids), "observed": prediction.observed}
        output.as_json({**counts, **figures, "how": how})
        return
    output.text(
        f"{config.out or config.scored}: {COLUMNS[prediction.target]} written, {what} of "
        f"{counted(len(prediction.ids), 'row')}; {prediction.observed:,} as observed ({rates.name}), the "
        f"others predicted by {name}"
    )
    if prediction.buckets is not None:
        strength = number(how["strength"], ".3g")
        output.text(f"  the rates count for {strength} rollouts of each prompt")
        weights = [[source, f"{weight:.2f}"] for source, weight in how["weights"].items()]
        output.table(weights, ["source", "weight"])
        sizes = Counter(prediction.buckets).most_common()
        output.text("  gc_bucket: " + ", ".join(f"{count:,} {bucket}" for bucket, count in sizes))
    if aims := how.get("aims"):
        output.text(
            "  p (1 - p) of the best quarter of references that were not seen: "
            f"{number(aims['difficulty'], '.4f')} by the failure rate nearest .5, "
            f"{number(aims['variance'], '.4f')} by the highest p (1 - p)"
        )
    references, seen = figures["on_halves"], "one half from the other, means of ten halves"
    if references is None:
        references, seen = figures["on_references"], "each from the others"
    judged = [(f"{references['count']:,} references, {seen}", references)]
    if others := figures["on_others"]:
        judged.append((f"{others['count']:,} observed prompts that are no references", others))
    from gaincurate.report.contents import quality

    print_blocks(quality(judged, what))


def _read(path: Path, reward_range: Any, scored: ScoredSet | None) -> list[PassRates]:
    from gaincurate.core.outcomes import Rules
    from gaincurate.schedule.observations import pass_rates_of

    rules = None
    if reward_range is not None:
        low, high = pair(reward_range, "--reward-range")
        if not -math.inf < low < high < math.inf:
            raise InputError(f"--reward-range {low:g},{high:g}: the first must be less than the second.")
        rules = Rules(low, high)
    return pass_rates_of(path, rules, scored=scored)


def _one_policy(paths: Sequence[Path], reward_range: Any, scored: ScoredSet) -> PassRates:
    """The pooled newest rounds of the files; an InputError for a file of several models."""
    from gaincurate.difficulty.pass_rates import pooled

    newest = []
    for path in paths:
        policies = _read(path, reward_range, scored)
        if len(policies) > 1 and policies[-1].round is None:
            names = ", ".join(policy.name for policy in policies[:3])
            raise InputError(
                f"--rollouts {path} has {len(policies)} models ({names}, ...); a prediction is for one: "
                "give a file with only its rows.",
                path=str(path),
            )
        if len(policies) > 1:
            taken = f"round {policies[-1].round} is the newest of {len(policies)} and the one taken"
            output.note(f"{path}: {taken}")
        newest.append(policies[-1])
    return newest[0] if len(newest) == 1 else pooled(newest)


@configured("gaincurate.schedule.forecast:ForecastConfig")
def forecast(config: ForecastConfig, as_json: AsJson = False) -> None:
    """Forecast what a choice of prompts could gain in a training, from rollouts of a random sample.

    Example: gaincurate difficulty forecast scored --rollouts rollouts --group 8
    """
    from gaincurate.schedule.forecast import forecast as compute
    from gaincurate.schedule.forecast import read_references

    output.result(compute(config, read_references(config)), as_json, _print_forecast)


def _print_forecast(result: Forecast) -> None:
    def shown(share: Share, form: str = ".0%") -> str:
        return f"{share.value:{form}} ({share.low:{form}} to {share.high:{form}})"

    of = counted(result.references, "prompt")
    output.text(f"from {counted(result.rollouts, 'rollout')} of {of}, for groups of {result.group}:")
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


_HELP = "How hard each prompt is: by rollouts, and predicted from a few."
app = group(fit, predict, rollout, rejudge, forecast, help=_HELP)

"""A small report made by hand: what a page or a terminal is shown without a scored set."""

from __future__ import annotations

from dataclasses import replace

from gaincurate.core.stats import Bin, Estimate
from gaincurate.report.document import (
    ENDS,
    FORMAT,
    About,
    Against,
    Band,
    Calibration,
    Cell,
    Check,
    Column,
    Difference,
    Distribution,
    Document,
    Ends,
    Example,
    Foresight,
    GroupCorrelation,
    GroupRate,
    GroupShare,
    Histogram,
    LengthBin,
    LengthProfile,
    Lift,
    Outcome,
    Predictions,
    Prompt,
    Relation,
    Round,
    RunStory,
    Scatter,
    Stability,
    Tenths,
    Verdict,
)

SCRIPT = "<script>alert('a prompt is data')</script> What is 2 < 3 & 4 > 1?\nSecond line."
NAMES = ("gc_angle", "gc_angle_intra", "gc_question_tokens", "level", "rollouts", "rollouts p(1-p)")


def _estimate(value: float, rows: int = 240) -> Estimate:
    return Estimate(value, max(-1.0, value - 0.12), min(1.0, value + 0.12), rows)


def _distribution(name: str) -> Distribution:
    quantiles = [0.1, 0.12, 0.15, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8]
    histogram = Histogram([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [20, 60, 90, 50, 18], 1, 1)
    return Distribution(name, 240, 0, 231, 0.37, quantiles, histogram)


def _scatter(name: str) -> Scatter:
    bands = [Band(100, 0.3, 0.4, 0.5), Band(135, 0.2, 0.3, 0.4), Band(4, None, None, None)]
    counts = [[10, 60, 30], [50, 70, 15], [2, 1, 1]]
    return Scatter(name, [8.0, 20.0, 50.0, 125.0], [0.1, 0.3, 0.5, 0.7], counts, 1, bands, _estimate(-0.86))


def _relation(signal: str, target: str) -> Relation:
    groups = [
        GroupCorrelation("algebra", _estimate(-0.11, 140)),
        GroupCorrelation("<b>", _estimate(0.02, 90)),
    ]
    few = GroupCorrelation("rare", Estimate(None, None, None, 2))
    return Relation(
        signal,
        target,
        _estimate(-0.22),
        _estimate(-0.04),
        _estimate(-0.03),
        _estimate(-0.1),
        _estimate(-0.02),
        _estimate(-0.01),
        _estimate(0.39),
        [*groups, few],
    )


def _profile(signal: str) -> LengthProfile:
    bins = [
        LengthBin(8, 30, 120, [0.3, 0.4, 0.5], [_estimate(-0.05, 120)] * 3),
        LengthBin(31, 125, 120, [0.2, 0.3, 0.4], [_estimate(-0.01, 120)] * 3),
    ]
    return LengthProfile(signal, ["level", "rollouts", "rollouts p(1-p)"], 0.71, bins)


def _verdict(signal: str, *, by_length: bool) -> Verdict:
    banner = f"{signal} is close to question length: correlation -0.86." if by_length else None
    sentence = (
        f"{signal} tells no more than question length does (for rollouts p(1-p): -0.22, given length -0.04): "
        "sort by length, or not at all."
    )
    decisive = _estimate(-0.04)
    return Verdict(
        signal,
        "no-more-than-length",
        sentence,
        banner,
        None,
        _estimate(-0.86 if by_length else -0.3),
        "rollouts p(1-p)",
        decisive,
        0.992,
        6,
    )


def _predictions() -> Predictions:
    bins = [Bin(0.2, 0.4, 60, 0.31, 0.36), Bin(0.4, 0.6, 180, 0.5, 0.55)]
    brier, ceiling = Estimate(0.09, 0.07, 0.11, 240), Estimate(0.88, 0.81, 0.93, 240)
    figures = (_estimate(0.4), _estimate(0.38), brier, 0.12, ceiling, bins)
    found = [Foresight(2, "references", 240, *figures), Foresight(1, "drawn prompts", 240, *figures)]
    return Predictions("difficulty", 0.5, "gp", found, "Drawn prompts are <all> alike.", 960, 7000, 3.0, 0.4)


def example() -> Document:
    """Every field of a report filled, with markup in every text that comes from data."""
    signals = ("gc_angle", "gc_angle_intra")
    prompts = [Prompt(f"id{i}", 0.8 - i / 10, 12 + i, "algebra", SCRIPT, i == 2) for i in range(3)]
    rounds = [
        Round(0, 12.5, 0.31, 0.6, None, None, 64, 512, 3, 0, 7_100, 81_000, 93.5, 4.2),
        Round(1, 19.0, 0.44, 0.7, 0.97, "00001", 64, 512, 0, 2, 7_000, 79_500, 90.1, None),
        Round(2, 30.2, None, None, None, None, None, None, None, None, 7_050, None, None, None),
    ]
    columns = [
        Column("gc_angle", "signal", "the mean cosine of prompt tokens; highest first in GAIN-RL", "scored"),
        Column("gc_angle_intra", "signal", "the part inside the question", "scored"),
        Column("gc_question_tokens", "length", "tokens of the question", "scored"),
        Column("level", "difficulty", "numbers at the end of its texts", "a column of the source"),
        Column("rollouts", "pass-rate", "share of rollouts that were right", "rollouts"),
        Column("rollouts p(1-p)", "learnability", "p (1 - p), highest at one right in two", "rollouts"),
    ]
    targets = ("level", "rollouts", "rollouts p(1-p)")
    return Document(
        format=FORMAT,
        about=About(
            folder="scored <set>",
            manifest="0" * 32,
            model="SmolLM2-135M-Instruct",
            dtype="float32",
            device="cpu",
            site="mlp_input",
            rows=240,
            rejected=1,
            truncated=0,
            prompt_column="question",
            length_column="gc_question_tokens",
            group_column="subject",
            groups=3,
            group_how="found by its name; --group-column names another",
            group_sizes={"algebra": 140, "<b>": 98, "rare": 2},
            settings={"layer": "29", "model.weights": "1f" * 16},
        ),
        headline="None of 2 signals tells more than question length does: do not sort by them.",
        unknown=None,
        wasted=None,
        verdicts=[_verdict("gc_angle", by_length=True), _verdict("gc_angle_intra", by_length=False)],
        columns=columns,
        distributions=[_distribution(name) for name in NAMES],
        scatters=[
            _scatter("gc_angle"),
            replace(_scatter("gc_angle_intra"), points=[[10.0, 0.2], [40.0, 0.5], [90.0, 0.4]]),
        ],
        matrix=[
            Cell(a, b, _estimate(0.9 - 0.3 * (j - i)))
            for i, a in enumerate(NAMES)
            for j, b in enumerate(NAMES)
            if i < j
        ],
        group_shares=[GroupShare(name, 3, 240, 0.31, 0.008) for name in NAMES],
        relations=[_relation(signal, target) for signal in signals for target in targets],
        profiles=[_profile(name) for name in signals],
        lifts=[
            Lift(name, "rollouts p(1-p)", end, 0.1, Estimate(0.76, 0.61, 0.93, 24))
            for name in (*signals, "gc_question_tokens")
            for end in ENDS
        ],
        group_rates=[
            GroupRate("rollouts", "algebra", 140, 0.4, 0.7, 0.19, [20, 30, 40, 20, 10, 20]),
            GroupRate("rollouts", "<b>", 98, 0.1, 0.2, 0.06, [70, 20, 8, 0, 0, 0]),
        ],
        tenths=[
            Tenths(
                name,
                "rollouts p(1-p)",
                0.17,
                [k / 10 for k in range(10)],
                [(k + 1) / 10 for k in range(10)],
                [Estimate(0.1 + k / 100, 0.05 + k / 100, 0.15 + k / 100, 24) for k in range(10)],
            )
            for name in ("predicted p(1-p)", "gc_angle")
        ],
        outcomes=[
            Outcome(
                name="rollouts",
                learnability="rollouts p(1-p)",
                source="rollouts",
                path="rollouts",
                prompts=240,
                unknown=0,
                rollouts=1920,
                mean=0.37,
                always=0.12,
                never=0.4,
                ceiling=Estimate(0.91, 0.88, 0.94, 240),
                mean_variance=Estimate(0.11, 0.1, 0.12, 240),
                notes=["8 rollouts a prompt."],
            )
        ],
        calibrations=[
            Calibration(
                "gc_difficulty",
                "rollouts",
                _estimate(0.51),
                _estimate(0.5),
                Estimate(0.13, 0.11, 0.15, 240),
                0.17,
                [Bin(0.0, 0.2, 40, 0.14, 0.2), Bin(0.6, 0.8, 200, 0.7, 0.66)],
            )
        ],
        against=[
            Against(
                "scored-bf16",
                "1" * 32,
                238,
                2,
                0,
                [Difference("dtype", "float32", "bfloat16")],
                [Stability(name, _estimate(0.99, 238), 0.95, 0.1) for name in signals],
            )
        ],
        ends=[Ends(name, prompts, prompts, prompts) for name in signals],
        hygiene=[
            Check("duplicates", 4, 4 / 240, [Example("id7", SCRIPT, "id3 (the same messages)")], "2 groups"),
            Check("near-duplicates", 9, 9 / 240, [Example("id9", SCRIPT, "id4")], "triples <hashed>"),
        ],
        run=RunStory(
            "run", "gain-rl", "gc_angle", {"beta": 0.5}, 64, 3, False, rounds, 183.6, 4.2, _predictions()
        ),
        notes=["The columns answer, <i>extra</i> are no numbers and were left out."],
        methods={"correlations": "Spearman's, ties at their mean rank, rows that have both."},
    )

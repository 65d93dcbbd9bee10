"""What a comparison shows in the terminal: takes the document, prints it. Knows nothing of files."""

from __future__ import annotations

from typing import Any

from gaincurate.cli import output

Json = dict[str, Any]


def print_comparison(found: Json) -> None:
    """What can be said first; what it rests on below."""
    setting = found["setting"]
    output.say(found["headline"])
    for note in found["notes"]:
        output.say(f"NOTE: {note}")
    output.text()
    output.say(
        f"{output.counted(setting['budget_tokens'], 'generated token')} for each of "
        f"{output.counted(len(found['arms']), 'arm')} and {output.counted(setting['seeds_count'], 'seed')}; "
        f"{output.counted(setting['prompts'], 'held-out prompt')}, "
        f"{output.counted(setting['samples'], 'answer')} each; "
        f"{found['arms'][0]['curve'][0]['accuracy']:.3f} of them right at the start"
    )
    _verdicts(found)
    output.text()
    _gave(found)
    output.text()
    _cost(found)
    output.text()
    for arm in found["arms"]:
        output.say(arm["sentence"], "  ")
    if found["against_length"]:
        output.say(found["against_length"], "  ")


def _verdicts(found: Json) -> None:
    from gaincurate.compare.verdict_text import reached_at

    baseline, second = found["setting"]["baseline"], found["setting"]["second"]
    head = ["arm", "right", f"less {baseline}", "95 % together", "verdict", f"less {second}", "verdict"]
    head.append(f"at {baseline}'s end after")
    rows = []
    for arm in sorted(found["arms"], key=lambda arm: -float(arm["accuracy"]["value"])):
        against, length = arm["difference"] or {}, arm["against_length"] or {}
        rows.append(
            [
                arm["arm"],
                f"{arm['accuracy']['value']:.3f}",
                output.number(against.get("value"), "+.3f"),
                _span(against.get("joint")),
                against.get("answer", "the baseline"),
                output.number(length.get("value"), "+.3f"),
                length.get("answer", ""),
                reached_at(found, arm),
            ]
        )
    output.table(rows, head)


def _span(ends: list[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}"


def _gave(found: Json) -> None:
    most = max(found["arms"][0]["pass_at"], key=int)
    head = ["arm", f"pass@{most}", "answer tokens", "0<p<1", "reward", "replayed"]
    head += ["gradient~angle", "given time"]
    rows = [
        [
            arm["arm"],
            f"{arm['pass_at'][most]:.3f}",
            f"{arm['curve'][-1]['response_tokens']:,.1f}",
            output.number(arm["training"]["effective"], ".2f"),
            output.number(arm["training"]["reward"], ".3f"),
            output.number(arm["training"]["replayed"], ".0%"),
            output.number(arm["gradient"]["spearman"], "+.2f"),
            output.number(arm["gradient"]["given_step"], "+.2f"),
        ]
        for arm in found["arms"]
    ]
    output.table(rows, head)


def _cost(found: Json) -> None:
    names = ("training", "references", "scoring", "rescoring", "tokens")
    head = ["arm", "tokens of training", "references", "scoring", "re-scoring", "all", "steps", "seconds"]
    rows = [
        [
            arm["arm"],
            *(f"{arm['cost'][name]:,.0f}" for name in names),
            f"{arm['cost']['step']:,.0f}",
            f"{arm['cost']['seconds']:,.0f}",
        ]
        for arm in found["arms"]
    ]
    output.table(rows, head)

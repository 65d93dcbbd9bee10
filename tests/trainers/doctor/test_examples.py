"""Twelve configurations from each trainer's own examples: what is found in them, and that the mended ones are clean.

`examples.toml` has the settings that matter, as facts, and what would go wrong with a scheduled round, judged by the
trainer's source and not by running it.
"""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaincurate.trainers.doctor.examine import Report, judge, trainer_named
from gaincurate.trainers.doctor.findings import Context, Mode, defaults_of
from gaincurate.trainers.doctor.read import Read
from gaincurate.trainers.doctor.settings import normal, scalar

TEXT = Path(__file__).with_name("examples.toml").read_text()
EXAMPLES: list[dict[str, str]] = tomllib.loads(TEXT)["example"]
OF = dict.fromkeys(example["trainer"] for example in EXAMPLES)
IDS, COLUMNS = ["long-a", "long-b"], frozenset({"prompt", "answer", "gc_id"})
RUN = Context(budget=96, rounds=10, longest=700, longer_than=lambda limit: IDS, columns=COLUMNS)
MODES: tuple[Mode, ...] = ("segment", "live", "export")
LEFT = {"openrlhf": {"shuffle"}, "skyrl": {"shuffle", "log-without-id"}, "nemo-rl": {"log-without-id"}}


def settings_of(example: dict[str, str]) -> dict[str, Any]:
    pairs = (word.partition("=") for word in shlex.split(example["set"]))
    return {normal(key): scalar(value) for key, _, value in pairs}


def look(trainer: str, mode: Mode, given: dict[str, Any]) -> Report:
    sections = {key.split(".")[0] for key in defaults_of(trainer)}
    return judge(trainer_named(trainer), Read(given=given, sections=sections), replace(RUN, mode=mode))


def modes(trainer: str) -> list[Mode]:
    return [mode for mode in MODES if mode != "live" or trainer_named(trainer).live]


def of(trainer: str) -> list[dict[str, str]]:
    found = [example for example in EXAMPLES if example["trainer"] == trainer]
    assert len({example["from"] for example in found}) == len(found) == 12
    return found


@pytest.mark.parametrize("trainer", OF)
def test_what_is_found_in_the_trainers_own_examples(trainer: str) -> None:
    for example in of(trainer):
        for mode in modes(trainer):
            report = look(trainer, mode, settings_of(example))
            found = sorted(finding.name for finding in report.findings)
            assert found == sorted(example[mode].split()), (example["from"], mode)
            unjudged = [note.split()[0] for note in report.notes if "not judged" in note]
            assert unjudged == example.get(f"{mode}_unjudged", "").split(), (example["from"], mode)


@pytest.mark.parametrize("trainer", OF)
def test_the_mended_examples_are_clean(trainer: str) -> None:
    for example in of(trainer):
        for mode in modes(trainer):
            given = settings_of(example)
            for _ in range(5):
                report = look(trainer, mode, given)
                for finding in report.findings:
                    given = given | {normal(key): value for key, value in finding.fix.items()}
            left = {finding.name for finding in report.findings}
            assert left <= LEFT.get(trainer, set()), (example["from"], mode)


def test_the_count_in_the_docs_is_that_of_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs/doctor.md").read_text()
    count = sum(len(example[mode].split()) for t in OF for example in of(t) for mode in modes(t))
    assert f"all {count:,} true findings" in page

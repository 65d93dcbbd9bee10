"""Keywords of the public functions: what type checkers know of them is what the configs take.

The comments of the last test are its half for mypy: `make static` fails where one of them ignores nothing.
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

import pytest

import gaincurate
from gaincurate.core.options import checked
from gaincurate.errors import InputError
from gaincurate.schedule.config import ScheduleConfig, ScheduleOptions
from gaincurate.scoring.config import ScoreConfig

GIVEN = {"scored", "run", "strategy", "budget", "rounds"}
WIDER = {"history"}
"""Taken as a text too, or as any sequence."""


def kinds(annotation: Any) -> set[Any]:
    """What a union is of, without what marks its parts."""
    if typing.get_origin(annotation) is typing.Annotated:
        return kinds(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*map(kinds, typing.get_args(annotation)))
    return {annotation}


def test_keywords_have_the_names_and_the_types_of_the_config() -> None:
    typed, fields = typing.get_type_hints(ScheduleOptions, include_extras=True), ScheduleConfig.model_fields
    assert typed.keys() == fields.keys() - GIVEN
    for name in typed.keys() - WIDER:
        asked, wider = kinds(fields[name].annotation), kinds(typed[name])
        assert asked <= wider, name
        assert wider - asked <= {str, dict[str, Any]}, name
    assert not ScheduleOptions.__required_keys__


@pytest.mark.parametrize("signals", ["angle", ["nll", "angle"], ("angle", "nll")])
def test_signals_are_a_text_or_several(signals: Any) -> None:
    given = {"data": "d", "model": "m", "out": "o", "signals": signals}
    assert checked(ScoreConfig, given).signals == ("angle", "nll")[: 1 if signals == "angle" else 2]


def test_a_wrong_keyword_is_refused_by_the_function_and_by_mypy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no keyword 'limt'; similar: limit"):
        gaincurate.score("data.jsonl", "demo", tmp_path, limt=3)
    with pytest.raises(InputError, match="limit = 'x': "):
        gaincurate.score("data.jsonl", "demo", tmp_path, limit="x")
    with pytest.raises(InputError, match="there is no keyword 'smaples'; similar: samples"):
        gaincurate.rollout(tmp_path, tmp_path / "out", verifier="exact", smaples=3)
    with pytest.raises(InputError, match="there is no keyword 'alignto'; similar: align_to"):
        gaincurate.Schedule.start("set", tmp_path, strategy="uniform", budget=1, rounds=1, alignto=2)  # type: ignore[call-arg]

"""What `schedule start` says of --scoring; its refusals stand in test_schedule.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gaincurate.cli.schedule_start import scoring_options, tell_of_machine


def test_only_what_was_asked_for_is_seen() -> None:
    words, seen = scoring_options("--threads 2 --dtype 'auto'")
    assert words == ["--threads", "2", "--dtype", "auto"]
    assert seen == {"threads": 2, "dtype": "auto"}
    assert scoring_options("") == ([], {})


def test_a_dtype_that_was_asked_for_counts_and_not_the_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cast("Any", SimpleNamespace(folder=tmp_path, scored=SimpleNamespace(identity={"dtype": "float16"})))
    tell_of_machine(run, {"device": "cpu", "dtype": "auto"})
    assert capsys.readouterr().err == ""
    tell_of_machine(run, {"device": "cpu"})
    assert "would fail: --dtype float16 is for GPUs;" in capsys.readouterr().err

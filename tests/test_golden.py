from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import golden


@pytest.mark.slow
def test_commands_make_what_they_made_at_the_golden_commit() -> None:
    program = Path(golden.__file__)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, cwd=program.parent.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_comparison_sees_what_differs() -> None:
    before = {"a": [1, 0.5], "b": "x", "c": 3, "d": True}
    assert list(golden.differences({**before, "e": 1, "a": [1, 0.5 + golden.NEAR / 4]}, before)) == []
    for changed in ({"a": [1, 0.502]}, {"a": [2, 0.5]}, {"a": [1]}, {"b": "y"}, {"c": 0}, {"d": False}):
        assert len(list(golden.differences({**before, **changed}, before))) == 1
    assert list(golden.differences({"a": [1, 0.5], "b": "x", "d": True}, before)) == [".c is gone"]

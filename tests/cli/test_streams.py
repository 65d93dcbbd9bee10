"""What the entry point sees before any command: closed streams, names that are no text, readers that left."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import runs
from gaincurate.__main__ import main


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    command = f"{shlex.quote(sys.executable)} -m gaincurate"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    whole = ["bash", "-c", line.replace("GC", command)]
    return subprocess.run(whole, cwd=folder, env=environment, capture_output=True, check=False)


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_a_command_runs_with_closed_streams_and_its_code_is_what_it_would_be(
    tmp_path: Path, closed: str
) -> None:
    (tmp_path / "empty").mkdir()
    done = shell(f"GC ls empty {closed}; echo $? >codes; GC show empty {closed}; echo $? >>codes", tmp_path)
    assert (tmp_path / "codes").read_text().split() == ["0", "2"]
    assert b"Traceback" not in done.stderr


def test_what_is_opened_for_a_closed_stream_is_there_for_children_too(tmp_path: Path) -> None:
    code = "import os; from gaincurate.cli import app; app._open_streams(); print(os.get_inheritable(2))"
    done = shell(f"{shlex.quote(sys.executable)} -c '{code}' 2>&-", tmp_path)
    assert done.stdout == b"True\n"


def test_a_reader_that_went_away_is_no_error(tmp_path: Path) -> None:
    folder = runs.begin(tmp_path).folder
    done = shell(f"GC schedule status {folder} --json | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.stdout, done.stderr) == (b"0\n", b"")


@pytest.mark.parametrize("words", ["score --help", "ls ."])
def test_what_cannot_be_printed_is_a_sentence(tmp_path: Path, words: str) -> None:
    done = shell(f"GC {words} >/dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (1, b"error: cannot write the output: the disk is full.\n")


def test_ctrl_c_while_the_program_starts_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "gaincurate.cli.app", Interrupted())  # what is imported from it
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # it would stay so for other tests
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "interrupted.\n")


def test_ctrl_c_while_the_program_ends_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import atexit, signal, sys; atexit.register(signal.raise_signal, signal.SIGINT); "
        'sys.argv[1:] = ["--version"]; from gaincurate.__main__ import main; main()'
    )
    done = shell(f"{shlex.quote(sys.executable)} -c '{code}'", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout

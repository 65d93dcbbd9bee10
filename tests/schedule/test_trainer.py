from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gaincurate.errors import LockedError, TrainerError
from gaincurate.schedule import trainer
from gaincurate.schedule.trainer import fill, train, trainer_lock


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def go(tmp_path: Path, command: list[str], **options: object) -> float:
    with trainer_lock(tmp_path) as lock:
        return train(command, environment={"GREETING": "hello"}, log=tmp_path / "log", lock=lock, **options)  # type: ignore[arg-type]


def test_names_are_filled_in_and_other_braces_stay() -> None:
    names = {"data": "/a b/$(rm -rf ~)", "round": "3"}
    command = ["x", "--data={data}", "{round}{round}", '{"json": {data}}', "{other}", "{}"]
    assert fill(command, names) == [
        "x", "--data=/a b/$(rm -rf ~)", "33", '{"json": /a b/$(rm -rf ~)}', "{other}", "{}"
    ]  # fmt: skip


def test_output_and_errors_go_to_the_log_and_arguments_through_no_shell(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['GREETING'], sys.argv[1:]); print('oh', file=sys.stderr)"
    assert go(tmp_path, [*python(code), "$HOME; echo", "a b"]) > 0
    log = (tmp_path / "log").read_text()
    assert "hello ['$HOME; echo', 'a b']" in log
    assert "\noh\n" in log
    go(tmp_path, python("print('again')"))
    assert (tmp_path / "log").read_text().startswith(log)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import sys; sys.exit(7)", "the trainer failed with exit code 7; its log is LOG."),
        ("raise SystemExit('no memory')", "failed with exit code 1; its log is LOG and ends: no memory"),
        ("import os; os.kill(os.getpid(), 9)", "the trainer was ended by SIGKILL; its log is LOG."),
    ],
)
def test_a_failure_says_how_and_quotes_the_logs_last_line(tmp_path: Path, code: str, sentence: str) -> None:
    with pytest.raises(TrainerError) as caught:
        go(tmp_path, python(code))
    assert sentence.replace("LOG", str(tmp_path / "log")) in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="the trainer 'no-such-program' cannot be started: no such file"):
        go(tmp_path, ["no-such-program"])


def test_a_hanging_trainer_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_GRACE", 0.3)
    code = (  # a child that does not listen to SIGTERM, and that holds the lock
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], close_fds=False)\n"
        "time.sleep(600)"
    )
    with pytest.raises(TrainerError, match=r"took longer than 1 s \(--timeout\) and was ended"):
        go(tmp_path, python(code), timeout=1)
    with trainer_lock(tmp_path):
        pass  # nothing is left that holds it


def test_a_forgotten_trainer_keeps_a_second_one_out(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = " + repr(sys.path) + "\n"
        "from pathlib import Path\n"
        "from gaincurate.schedule.trainer import train, trainer_lock\n"
        'inner = \'import subprocess, sys; p = subprocess.Popen([sys.executable, "-c", "input()"], \'\n'
        "inner += 'stdin=0, close_fds=False, start_new_session=True); print(p.pid)'\n"
        "folder = Path(sys.argv[1])\n"
        "with trainer_lock(folder) as lock:\n"
        "    train([sys.executable, '-c', 'import time, subprocess, sys; '\n"
        '        \'subprocess.Popen(["sleep", "600"], close_fds=False, start_new_session=True)\'],\n'
        "        environment={}, log=folder / 'log', lock=lock)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    try:
        with pytest.raises(
            LockedError, match="a process that an earlier `schedule run` started is still at work"
        ):
            trainer_lock(tmp_path).__enter__()
    finally:
        holders = subprocess.run(["pkill", "-f", "^sleep 600$"], check=False)
        assert holders.returncode == 0

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gaincurate.core import process
from gaincurate.core.process import (
    check_placeholders,
    command_lock,
    end_workers,
    fill,
    run_command,
    start_workers,
)
from gaincurate.errors import InputError, LockedError, TrainerError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def go(tmp_path: Path, command: list[str], **options: Any) -> float:
    with command_lock(tmp_path) as lock:
        return run_command(command, environment={"HOME": "hello"}, log=tmp_path / "log", lock=lock, **options)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_names_are_filled_in_and_other_braces_stay() -> None:
    names = {"data": "/a b/$(rm -rf ~)", "round": "3"}
    command = [
        "x",
        "--data={data}",
        "{round}{round}",
        '{"json": {data}}',
        "{other}",
        "{}",
        "${round} {{round}}",
    ]
    assert fill(command, names) == [
        "x", "--data=/a b/$(rm -rf ~)", "33", '{"json": /a b/$(rm -rf ~)}', "{other}", "{}", "${round} {round}"
    ]  # fmt: skip


def test_a_placeholder_that_is_not_known_is_refused() -> None:
    check_placeholders(["{data}", "{{rond}}", "${rond}"], ("data", "round"))
    with pytest.raises(
        InputError, match=r"none of {data}, {round}; similar: round\. Write {{rond}} for braces"
    ):
        check_placeholders(["train", "--step={data}{rond}"], ("data", "round"))


def test_output_and_errors_go_to_the_log_and_arguments_through_no_shell(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['HOME'], sys.argv[1:]); print('oh', file=sys.stderr)"
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


BAR = "\r 45%|████▌     | 9/20 [00:05<00:06,  1.71it/s]"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (f"{BAR}\nTraceback (most recent call last):\n  File x\nValueError: no rows.\n{BAR}", "ValueError: no rows"),
        (f"{BAR}\nkilled by the scheduler\n{BAR}{BAR}\n", "killed by the scheduler"),
        (f"100%|██████████| 20/20 [00:05<00:00]\nsaved{BAR}", "saved"),
        ("Training ━━━━━━━━━━╸━━━ 60% 0:00:12\n", "Training ━━━━━━━━━━╸━━━ 60% 0:00:12"),
        ("[rank0]: torch.OutOfMemoryError: CUDA out of memory.\nwandb: Find logs at: ./wandb\n",
         "[rank0]: torch.OutOfMemoryError: CUDA out of memory"),
        ("KeyError: 'a'\nerror: the set is gone.\n", "error: the set is gone"),
        ("ImportError: no flash_attn\n" + 20 * "step\n" + "Killed\n", "Killed"),
        ("ValueError: the key sk-0123456789 is refused\n", "ValueError: the key *** is refused"),
        ("", None),
    ],
)  # fmt: skip
def test_a_log_is_quoted_by_what_went_wrong_and_not_by_a_progress_bar(
    tmp_path: Path, log: str, line: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "sk-0123456789")
    (tmp_path / "log").write_text(f"$ python old.py\nValueError: old\n$ python train.py\n{log}")
    assert process.last_line(tmp_path / "log") == line


# A worker as launchers start them: in a session of its own, with no file of its parent's, deaf to SIGTERM.
WORKER = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "open({ready!r}, 'w').write(str(__import__('os').getpid())); time.sleep(600)"
)
LAUNCHER = (
    "import subprocess, sys, time, os\n"
    "subprocess.Popen([sys.executable, '-c', {worker!r}], start_new_session=True)\n"
    "while not os.path.exists({ready!r}) or not open({ready!r}).read(): time.sleep(.01)\n"
)


def launcher(tmp_path: Path, then: str) -> list[str]:
    ready = str(tmp_path / "worker")
    return python(LAUNCHER.format(worker=WORKER.format(ready=ready), ready=ready) + then)


def an_hour_later_when(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's clock jumps when a file is written: however slow the machine is, all is in place by then."""

    def now() -> float:
        return time.monotonic() + (3600 if ready.exists() and ready.read_text() else 0)

    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=now, sleep=time.sleep))


@pytest.mark.parametrize("then", ["time.sleep(600)", "sys.exit(0)", "sys.exit(3)"])
def test_whatever_a_trainer_started_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr(process, "_GRACE", 0.3)
    an_hour_later_when(tmp_path / "worker", monkeypatch)
    try:
        go(tmp_path, launcher(tmp_path, then), timeout=600 if "sleep" in then else None)
        assert then == "sys.exit(0)"
    except TrainerError as error:
        expected = r"took longer than 600 s (--timeout) and was ended" if "sleep" in then else "exit code 3"
        assert expected in str(error)  # noqa: PT017
    assert not alive(int((tmp_path / "worker").read_text()))
    with command_lock(tmp_path):
        pass


ORPHANS = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()

def left():
    found = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        found += state == "Z" and int(parent) == os.getppid()
    return found

end = time.monotonic() + 30
while left() and time.monotonic() < end:
    time.sleep(0.05)
print("left", left())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans become the keeper's on Linux")
def test_orphans_that_ended_are_cleared_away_while_the_command_runs(tmp_path: Path) -> None:
    go(tmp_path, python(ORPHANS))
    assert (tmp_path / "log").read_text().endswith("left 0\n")


def test_a_trainer_that_is_asked_to_end_may_save_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import signal, time, sys\n"
        "def save(*_): time.sleep(.5); open(sys.argv[1], 'w').write('saved'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, save); open(sys.argv[2], 'w').write('ready'); time.sleep(600)"
    )
    an_hour_later_when(tmp_path / "ready", monkeypatch)
    with pytest.raises(TrainerError, match="--timeout"):
        go(tmp_path, [*python(code), str(tmp_path / "saved"), str(tmp_path / "ready")], timeout=600)
    assert (tmp_path / "saved").read_text() == "saved"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_driver_that_dies_takes_the_workers_along(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_FREED", 300.0)
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from gaincurate.core import process\n"
        "process._GRACE = .3\n"
        f"with process.stoppable(), process.command_lock(Path({str(tmp_path)!r})) as lock:\n"
        f"    process.run_command({launcher(tmp_path, 'time.sleep(600)')!r}, environment={{}},\n"
        f"        log=Path({str(tmp_path / 'log')!r}), lock=lock)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    worker = tmp_path / "worker"
    while driver.poll() is None and not (worker.exists() and worker.read_text()):
        pass
    driver.send_signal(number)
    driver.wait()
    with command_lock(tmp_path):  # waits until the keeper is done
        assert not alive(int(worker.read_text()))


def test_a_trainer_that_still_lives_keeps_a_second_one_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_FREED", 0.0)
    sentence = "a trainer is still at work on .*: another one's, or what an earlier one left"
    with command_lock(tmp_path), pytest.raises(LockedError, match=sentence):
        command_lock(tmp_path).__enter__()


def test_waiting_for_a_trainer_takes_no_lock_that_a_signal_leaves_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's exception may come when `Popen.poll`, or a `wait` with a time, has just taken its lock."""
    wait = subprocess.Popen.wait

    def waiting(self: Any, timeout: float | None = None) -> int:
        assert timeout is None
        return wait(self)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "poll", None)
        patch.setattr(subprocess.Popen, "wait", waiting)
        go(tmp_path, python("print('here')"))
    assert (tmp_path / "log").read_text().endswith("here\n")


def test_a_signal_that_a_finalizer_swallowed_ends_the_trainer_all_the_same(tmp_path: Path) -> None:
    def watch(seconds: float) -> None:
        process._stops_seen.append(signal.SIGUSR1)

    with pytest.raises(process.Terminated, match="SIGUSR1"), process.stoppable():
        go(tmp_path, python("import time; time.sleep(600)"), watch=watch)


def answer(pipe: Connection) -> None:
    pipe.send("begun")
    pipe.send(pipe.recv())


def test_a_worker_does_not_hear_ctrl_c_from_its_first_instruction_on() -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(2):  # the first one may begin multiprocessing's own helper
        ours, theirs = context.Pipe()
        worker = context.Process(target=answer, args=(theirs,))
        start_workers([worker])
        theirs.close()  # one that dies is seen at once
        try:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGINT)  # Python has hardly begun there
            assert ours.recv() == "begun"
            os.kill(worker.pid, signal.SIGINT)
            ours.send("still here")
            assert ours.recv() == "still here"
            worker.join()
            assert worker.exitcode == 0
        finally:
            worker.terminate()
            worker.join()
            ours.close()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


class Beginner:
    """Ctrl-C comes while the first of them starts."""

    def __init__(self, first: bool) -> None:
        self.first = first
        self.pid: int | None = None

    def start(self) -> None:
        if self.first:
            signal.raise_signal(signal.SIGINT)  # to this thread, where it waits until it may come
        self.pid = 1


def test_ctrl_c_while_they_start_is_raised_when_all_have_begun() -> None:
    workers = [Beginner(True), Beginner(False)]
    with pytest.raises(KeyboardInterrupt):
        start_workers(cast("list[BaseProcess]", workers))
    assert [worker.pid for worker in workers] == [1, 1]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_the_end_of_those_that_have_begun() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    begun, never = (context.Process(target=answer, args=(theirs,)) for _ in range(2))
    start_workers([begun])
    assert ours.recv() == "begun"
    end_workers([begun, never])
    assert begun.exitcode == -signal.SIGTERM
    assert never.pid is None
    ours.close()
    theirs.close()

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gaincurate.difficulty.config import VerifierConfig
from gaincurate.difficulty.verifier import VerifierPool
from gaincurate.difficulty.verify_worker import Job
from gaincurate.errors import InputError

ROW = {"answer": "7"}
BAD = "bad_verifiers:check"
MISDEEDS = {
    "!spin": "used more than 0.5 s of processor time and was ended",
    "!sleep": "took longer than 1.5 s and was ended",
    "!stubborn": "gave no answer within 6.5 s and was ended",
    "!memory": "the verifier needed more than 512 MiB of memory",
    "!segfault": "crashed (SIGSEGV)",
    "!exit": "ended without an answer (exit code 0)",
    "!sysexit": "the verifier raised SystemExit: 3",
    "!raise": "the verifier raised KeyError: 'no such thing'",
    "!mute": "the verifier raised _MuteError",
    "!worse": "the verifier raised _WorseError",
    "!signal": "crashed (signal 40)",
    "!text": "the verifier returned 'yes', which is no number",
    "!address": "the verifier returned <function check>, which is no number",
    "!close": "ended without an answer (exit code 1)",
    "!nan": "the verifier returned nan, which is not from 0 to 1",
    "!two": "the verifier returned 2.0, which is not from 0 to 1",
    "!surrogate": "the verifier raised ValueError: half of a pair: \\ud800",
}
linux = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")


def bad(workers: int = 1) -> VerifierConfig:
    return VerifierConfig(verifier=BAD, verify_seconds=0.5, verify_memory=512, verify_workers=workers)


def rewards(config: VerifierConfig, jobs: list[Job]) -> list[tuple[float | None, str | None]]:
    with VerifierPool(config) as pool:
        return [(v.reward, v.reason) for v in pool.judge_all(jobs)]


def test_whatever_a_verifier_does_the_others_are_judged_in_order() -> None:
    texts = [text for misdeed in MISDEEDS for text in ("7", misdeed, "8")]
    found = rewards(bad(3), [Job(text, "7", ROW) for text in texts])
    assert len(found) == len(texts)
    for text, (reward, reason) in zip(texts, found, strict=True):
        if text in MISDEEDS:
            assert reward is None
            assert MISDEEDS[text] in (reason or "")
        else:
            assert (reward, reason) == (float(text == "7"), None)


def test_a_key_is_not_part_of_what_a_verifier_says(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-" + "0123456789abcdef" * 3
    monkeypatch.setenv("SOME_API_KEY", key)
    found = rewards(bad(), [Job(text, "7", ROW) for text in ("!key", "!key in an error")])
    assert found[0] == (None, "the verifier returned '***', which is no number")
    # Before it is cut: the beginning of a key is a part of it.
    assert found[1] == (None, f"the verifier raised ValueError: {'x' * 370}***")


@linux
@pytest.mark.parametrize(
    "text",
    ["!fork", "!interrupt", "!print"],  # comes back twice, gets Ctrl-C, answers itself
)
def test_a_completion_has_one_verdict_whatever_the_verifier_does_beside_it(text: str) -> None:
    jobs = [Job(text, "7", ROW), Job("8", "7", ROW), Job("7", "7", ROW)] * 3
    assert rewards(bad(), jobs) == [(1.0, None), (0.0, None), (1.0, None)] * 3


@linux
@pytest.mark.parametrize("completion", ["!leave", "!leave and exit"])
def test_a_child_in_a_session_of_its_own_ends_with_the_process(tmp_path: Path, completion: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    open_there = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with VerifierPool(bad()) as pool:
        pool.submit(Job(completion, "7", ROW | {"fifo": str(fifo)})).result()
        ended = select.poll()
        ended.register(open_there, select.POLLHUP)
        if completion == "!leave":
            assert not ended.poll(0)  # as long as the process lives, its children may
    assert ended.poll(0)
    os.close(open_there)


def child_of(pool: VerifierPool) -> int:
    """The first process that verifies."""
    assert pool._all[0]._kept is not None
    keeper = pool._all[0]._kept.keeper.pid
    return int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text())


@linux
def test_a_process_that_died_while_idle_costs_nothing() -> None:
    with VerifierPool(bad()) as pool:
        os.kill(child_of(pool), signal.SIGKILL)
        pool._all[0]._kept.keeper.wait()  # type: ignore[union-attr]
        assert pool.submit(Job("7", "7", ROW)).result().reward == 1.0
        assert pool.submit(Job("!memory", "7", ROW)).result().reward is None
        assert pool._all[0]._kept is None, "what has used up its memory judges nothing more"


@linux
def test_closing_ends_every_process_also_one_that_hangs() -> None:
    with VerifierPool(VerifierConfig(verifier=BAD, verify_seconds=600, verify_memory=512)) as pool:
        process = os.pidfd_open(child_of(pool))
        hanging = pool.submit(Job("!sleep", "7", ROW))
    ended = select.poll()
    ended.register(process, select.POLLIN)
    assert ended.poll(0)
    os.close(process)
    assert hanging.result().reward is None


@linux
@pytest.mark.parametrize("misdeed", ["!spin", "!sleep", ""])
def test_no_process_outlives_a_command_that_is_killed(misdeed: str) -> None:
    program = """if True:
        import sys
        from gaincurate.difficulty.config import VerifierConfig
        from gaincurate.difficulty.verifier import VerifierPool
        from gaincurate.difficulty.verify_worker import Job
        pool = VerifierPool(VerifierConfig(verifier="bad_verifiers:check", verify_seconds=0.5, verify_memory=512)).__enter__()
        keeper = pool._all[0]._kept.keeper.pid
        print(open(f"/proc/{keeper}/task/{keeper}/children").read(), flush=True)
        if sys.argv[1]:
            pool.submit(Job(sys.argv[1], "7", {"answer": "7"}))
        sys.stdin.read()
    """
    command = subprocess.Popen(
        [sys.executable, "-c", program, misdeed],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert command.stdout is not None
    assert command.stderr is not None
    process = os.pidfd_open(int(command.stdout.readline()))
    if misdeed:
        assert command.stderr.readline() == b"begun\n"  # it is at it
    command.kill()
    ended = select.poll()
    ended.register(process, select.POLLIN)
    assert ended.poll(60_000)
    os.close(process)
    command.communicate()


def test_a_verifier_that_is_none_is_refused_at_once() -> None:
    names = "there are math, reasoning-gym, exact, or module:function for your own"
    for verifier, said in [
        ("maths", f"maths: {names}; similar: math."),
        ("a b:c", f"a b:c: {names}."),
        ("no_such_module:f", "no_such_module:f cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("bad_verifiers:nothing", "bad_verifiers:nothing cannot be loaded: AttributeError: module 'bad_verifiers' has no attribute 'nothing'"),
    ]:  # fmt: skip
        with pytest.raises(InputError) as caught, VerifierPool(VerifierConfig(verifier=verifier)):
            pass
        assert str(caught.value).startswith(f"--verifier {said}")
    with pytest.raises(InputError, match="--gold-as 'A' has no {answer} in it"):
        VerifierConfig(verifier="exact", gold_as="A")


def test_the_code_of_an_own_verifier_is_part_of_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for value in ("0.5", "0.25"):
        Path("mine.py").write_text(f"def f(completion, row):\n    return {value}\n")
        with VerifierPool(VerifierConfig(verifier="mine:f")) as pool:
            found.append((pool.about["code"], pool.submit(Job("x", None, {})).result().reward))
    assert found[0][0] != found[1][0]
    assert [reward for _, reward in found] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("completion", "answer", "verdict"),
    [
        (" 7\n", "7", 1.0),
        ("so <answer>6</answer>, no, <answer> 7 </answer>", "7", 1.0),
        ("it is 7", "7", 0.0),
        ("7", 7, 1.0),
        ("7", 7.0, 0.0),
        ("7", ["6", "7"], 1.0),
        ("7", None, "the gold answer is null"),
        ("7", "  ", "the gold answer is empty"),
        ("7", {"a": "7"}, "the gold answer is neither text nor number: {'a': '7'}"),
    ],
)
def test_exact(completion: str, answer: Any, verdict: float | str) -> None:
    expected = (None, verdict) if isinstance(verdict, str) else (verdict, None)
    assert rewards(VerifierConfig(verifier="exact"), [Job(completion, answer, {})]) == [expected]


def test_math_that_does_not_end_is_no_zero() -> None:
    pytest.importorskip("math_verify")
    config = VerifierConfig(verifier="math", verify_seconds=1)
    ((reward, reason),) = rewards(config, [Job(r"\boxed{9^{9^{9^{9}}}}", "9^{9^{9^{8}}}", {})])
    assert (reward, bool(reason)) == (None, True)


GYM_REASONS = (
    "the check of task 'calendar_arithmetic' needs 'task' in the column metadata, which has not got it",
    "which reasoning-gym task it is cannot be seen",
    "reasoning-gym has no task 'no_such_task'",
    "the column metadata is a text but no JSON",
)


def test_reasoning_gym() -> None:
    gym = pytest.importorskip("reasoning_gym")
    item = gym.create_dataset("countdown", size=1, seed=1)[0]
    gold, metadata = item["answer"], item["metadata"]
    row = {"question": item["question"], "metadata": metadata}
    plain = gym.create_dataset("chain_sum", size=1, seed=0)[0]["answer"]
    jobs = [
        Job(f"<answer>{gold}</answer>", gold, row),
        Job(f"hm <answer>({gold})</answer>", gold, row),  # another text of the same value
        Job("<answer>1 + 1</answer>", gold, row),
        Job(plain, plain, {"source": "chain_sum"}),
        Job("4", "4", {"source": "calendar_arithmetic"}),
        Job(gold, gold, {}),
        Job(gold, gold, {"source": "no_such_task"}),
        Job(gold, gold, {"metadata": "{"}),
    ]
    found = rewards(VerifierConfig(verifier="reasoning-gym"), jobs)
    assert [reward for reward, _ in found[:2]] == [1.0, 1.0]
    assert found[2][0] is not None
    assert found[2][0] < 1
    assert found[3] == (1.0, None)
    for (reward, reason), said in zip(found[4:], GYM_REASONS, strict=True):
        assert reward is None
        assert said in (reason or "")

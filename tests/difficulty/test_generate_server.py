from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, Gate, Key, wire
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.prompts import Prompt, Refused, request_seed
from gaincurate.difficulty.rollout import roll_out
from gaincurate.errors import InputError, RowError, ServerError
from server_rollouts import config, expected, question, rows_of, told

pytest.importorskip("httpx2")
from gaincurate.difficulty.server_engine import ServerEngine

FAULTS = ["429", "500", "drop", "half", "broken", "other", "date", "503", "408"]


def begin(asked: RolloutConfig, **streams: Any) -> subprocess.Popen[str]:
    """The command with the options of `config`."""
    words = ["difficulty", "rollout", asked.scored, "--out", asked.out, "--server", asked.server]
    words += ["--verifier", "exact", "--samples", "4", "--verify-workers", "1"]
    words += ["--concurrency", asked.concurrency]
    return subprocess.Popen([sys.executable, "-m", "gaincurate", *map(str, words)], text=True, **streams)


def test_what_a_server_gives_becomes_a_rollout_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the-secret")
    options = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 33, "server_body": {"return_token_ids": True}}
    with ChatServer() as server:
        summary = roll_out(config(tmp_path, server, **options))
    assert told(tmp_path / "out") == expected()
    assert (summary.prompts, summary.rollouts, summary.generated, summary.tokens) == (12, 48, 48, 96)
    assert (summary.unjudged, summary.rejected, summary.other_lengths) == (0, 0, 0)
    first = rows_of(tmp_path / "out")[0]
    assert first["logprobs"] == [-0.5, -0.25]
    assert (first["token_ids"], first["tokens"], first["prompt_tokens"]) == ([5, 6], 2, 9)
    assert (first["finish_reason"], first["reason"]) == ("stop", None)
    assert len({(b["messages"][-1]["content"], b["seed"]) for b in server.bodies}) == 48
    for body in server.bodies:
        assert body["model"] == "tiny"
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 33)
        assert body["messages"] == [{"role": "user", "content": body["messages"][-1]["content"]}]
    assert {head["Authorization"] for head in server.headers} == {"Bearer the-secret"}
    for path in (tmp_path / "out").iterdir():
        assert b"the-secret" not in path.read_bytes()


def test_every_fault_is_met_and_nothing_is_lost_or_there_twice(tmp_path: Path) -> None:
    met = Counter[str]()

    def fault(key: Key, attempt: int) -> str | None:
        # Each completion meets two faults, and all kinds are met.
        kind = FAULTS[(key[1] + attempt) % len(FAULTS)] if attempt <= 2 else None
        met[str(kind)] += 1
        return kind

    with ChatServer(fault) as server:
        roll_out(config(tmp_path, server))
    assert set(met) == {*FAULTS, "None"}
    assert told(tmp_path / "out") == expected()
    assert set(server.attempts.values()) == {3}
    assert Counter(server.given).most_common(1)[0][1] == 1


def test_requests_run_beside_each_other_and_no_more_than_asked(tmp_path: Path) -> None:
    together = threading.Barrier(4)  # none is answered until four are there
    running, most, lock = Counter[str](), list[int](), threading.Lock()

    def before(key: Key) -> None:
        with lock:
            running["now"] += 1
            most.append(running["now"])
        together.wait()
        with lock:
            running["now"] -= 1

    with ChatServer(before=before) as server:
        roll_out(config(tmp_path, server, concurrency=4))
    assert told(tmp_path / "out") == expected()
    assert max(most) == 4


def test_a_server_that_stays_broken_ends_the_run_and_what_arrived_is_not_asked_for_again(
    tmp_path: Path,
) -> None:
    with ChatServer() as server:
        asked = config(tmp_path, server, retries=2, concurrency=1)
        server.fault = lambda key, attempt: "500" if len(server.attempts) > 20 else None
        with pytest.raises(ServerError) as caught:
            roll_out(asked)
        place = expected()[20]
        assert str(caught.value) == (
            f"the server at {server.url}/v1 failed 3 times for prompt {place[0]}, sample {place[1]}, the last "
            "time because it answered 500: fault 500. What had arrived is kept; see to the server and run the "
            "same command again."
        )
        assert (len(server.given), max(server.attempts.values())) == (20, 3)
        server.fault = lambda key, attempt: None
        assert not (tmp_path / "out/manifest.json").exists()
        assert roll_out(asked).generated == 28
    assert told(tmp_path / "out") == expected()
    assert len(server.given) == len(set(server.given)) == 48


def test_the_command_killed_by_sigkill_goes_on_without_asking_twice(tmp_path: Path) -> None:
    gate = Gate(18)
    with ChatServer(before=gate) as server:
        asked = config(tmp_path, server)
        process = begin(asked, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        assert gate.reached.wait(300)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        gate.held.set()
        (journal,) = (tmp_path / "out/.work").glob("completions-*.jsonl")
        kept = [json.loads(line) for line in journal.read_text().splitlines()]
        seeds = {request_seed(0, entry["gc_id"], entry["sample"]) for entry in kept}
        assert len(kept) >= 10
        server.bodies.clear()
        roll_out(asked)
        assert not seeds & {body["seed"] for body in server.bodies}
    assert told(tmp_path / "out") == expected()


def test_a_refused_prompt_stops_or_is_left_out(tmp_path: Path) -> None:
    def fault(key: Key, attempt: int) -> str | None:
        return "400" if key[0] == question(5) else None

    with ChatServer(fault) as server:
        with pytest.raises(RowError) as caught:
            roll_out(config(tmp_path, server))
        assert str(caught.value) == (
            "prompt id5 cannot be rolled out: the server refused it: fault 400. What had arrived is kept. Fix "
            "it, or add --on-error skip to leave such rows out."
        )
        summary = roll_out(config(tmp_path, server, on_error="skip"))
        asked = sum(server.attempts.values())
        roll_out(config(tmp_path, server, on_error="skip"))
    assert asked == sum(server.attempts.values())
    assert (summary.prompts, summary.rejected) == (11, 1)
    assert told(tmp_path / "out") == [row for row in expected() if row[0] != "id5"]
    (line,) = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    assert json.loads(line) == {"gc_id": "id5", "reason": "the server refused it: fault 400"}


def test_the_model_is_the_servers_only_one_or_has_to_be_named(tmp_path: Path) -> None:
    with ChatServer(models=("b", "a")) as server:
        with pytest.raises(InputError) as caught:
            roll_out(config(tmp_path, server))
        said = f"--server {server.url}/v1 has 2 models; name one with --served-model: a, b."
        assert str(caught.value) == said
        assert not (tmp_path / "out").exists()
        roll_out(config(tmp_path, server, served_model="b"))
    assert {body["model"] for body in server.bodies} == {"b"}
    assert not any("Authorization" in header for header in server.headers)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with ChatServer() as server:
        gone = server.url
    said = f"^the server at {gone}/v1 failed 2 times for its models, the last time because of ConnectError"
    with pytest.raises(ServerError, match=said):
        roll_out(config(tmp_path, gone, retries=1))
    assert not (tmp_path / "out").exists()


def test_what_no_server_can_go_on_with_is_refused_without_a_request(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": question(1)}, {"role": "assistant", "content": "It is"}]
    more = {"role": "user", "content": "hi", "more": float("nan")}
    with ChatServer() as server, closing(ServerEngine(config(tmp_path, server, samples=1), {})) as engine:
        asked = [Prompt("a", messages, None, {}, 1), Prompt("b", [more], None, {}, 1)]
        refused = [item for part in engine.generate(asked, frozenset()) for item in part]
    assert all(isinstance(item, Refused) for item in refused)
    reasons = {item.gc_id: item.reason for item in refused if isinstance(item, Refused)}
    assert "assistant" in reasons["a"]
    assert reasons["b"].startswith("its messages cannot be sent as JSON (")
    assert not server.bodies


def test_tools_go_to_the_server_and_a_completion_that_it_parsed_into_calls_is_refused(tmp_path: Path) -> None:
    parsed = {"index": 0, "finish_reason": "tool_calls", "message": {"content": None, "tool_calls": []}}
    answer = wire(json.dumps({"choices": [parsed]}).encode())
    messages = [{"role": "user", "content": question(1)}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    with (
        ChatServer(lambda *_: [answer]) as server,
        closing(ServerEngine(config(tmp_path, server), {})) as engine,
    ):
        (found, *_), *_ = engine.generate([Prompt("a", messages, None, {}, 1, tools)], frozenset())
    assert isinstance(found, Refused)
    assert "parsed its completion into tool calls" in found.reason
    assert server.bodies[0]["tools"] == tools


def test_template_variables_of_the_scored_set_go_to_the_server_and_into_the_identity(tmp_path: Path) -> None:
    with ChatServer() as server:
        engine = ServerEngine(config(tmp_path, server, logprobs=False), {"enable_thinking": False})
        message = {"role": "user", "content": question(1)}
        list(engine.generate([Prompt("a", [message], None, {}, 1)], frozenset()))
        engine.close()
        with pytest.raises(InputError, match="--server-body sets 'temperature', which is set"):
            ServerEngine(config(tmp_path, server, server_body={"temperature": 0}), {})
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert "logprobs" not in server.bodies[0]
    assert engine.identity["body"] == {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize(
    ("number", "code", "what"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        pytest.param(signal.SIGUSR1, 143, "ended by SIGUSR1", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_it_and_it_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, code: int, what: str
) -> None:
    gate = Gate(10)
    with ChatServer(before=gate) as server:
        asked = config(tmp_path, server, concurrency=2)
        with begin(asked, stderr=subprocess.PIPE) as process:
            try:
                assert gate.reached.wait(300)
                process.send_signal(number)
                _, said = process.communicate()
            finally:
                gate.held.set()
                process.kill()
        assert process.returncode == code
        assert said.startswith(f"{what}. Run the same command again to go on: gaincurate difficulty rollout")
        assert "Traceback" not in said
        roll_out(asked)
    assert told(tmp_path / "out") == expected()


def test_ctrl_c_counts_also_just_before_the_loop_falls_asleep(tmp_path: Path) -> None:
    """Then Python has noted the signal and nothing wakes the loop: as where another thread takes the signal."""
    held = threading.Event()

    def before(key: Key) -> None:
        if sum(server.attempts.values()) == 2:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        held.wait()

    with ChatServer(before=before) as server:
        engine = ServerEngine(config(tmp_path, server, concurrency=2, served_model="m"), {})
        try:
            asked = [Prompt("a", [{"role": "user", "content": "hi"}], None, {}, 1)]
            with pytest.raises(KeyboardInterrupt):
                list(engine.generate(asked, frozenset()))
        finally:
            held.set()
            engine.close()

"""prime-rl: its columns, the settings that make it read a file, its prompts, checkpoints and logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gaincurate.core.foreign_models import ForeignJson
from gaincurate.errors import OutcomeError
from gaincurate.trainers.columns import Parts, ViewOptions
from gaincurate.trainers.log_formats import Entry, objects, see_row
from gaincurate.trainers.profile import (
    Columns,
    Launch,
    Layout,
    LogFormat,
    Profile,
    Rendering,
    Sharded,
    View,
    load_line,
    words,
)


def _columns(parts: Parts, options: ViewOptions) -> Columns:
    columns = {
        "idx": parts.places(),
        "name": parts.ids(),
        "prompt": parts.after_system(),
        "system_prompt": parts.system_text(),
    }
    return columns | ({"answer": parts.gold()} if parts.has_answer else {})


def _launch(path: Path, view: View) -> Launch:
    hints = [
        "prime-rl reads no files: your verifiers taskset yields one task for each row. The id comes back "
        "as the task's name",
    ]
    return Launch("python", [load_line(path)], hints)


def _prime_rl(path: Path, step: int) -> str | None:
    """prime-rl: a marker file is made when the broadcast is on disk."""
    if (path / "trainer").is_dir() or any((path / name).is_file() for name in ("STABLE", ".finished")):
        return None
    return f"{path} is not finished: it has no STABLE"


class _Work(ForeignJson):
    type: str | None = "train"
    step: int | None = None


class _Run(ForeignJson):
    work: _Work | None = None


class _Agent(ForeignJson):
    trainable: bool | None = True


class _Data(ForeignJson):
    prompt: str | list[dict[str, Any]] | None = None


class _Task(ForeignJson):
    data: _Data | None = None


class _Reward(ForeignJson):
    score: float | bool
    weight: float = 1.0


class _Usage(ForeignJson):
    completion_tokens: Annotated[int, Field(ge=0)] | None = None


class _Call(ForeignJson):
    usage: _Usage | None = None


class _Trace(ForeignJson):
    agent: _Agent | None = None
    task: _Task | None = None
    rewards: dict[str, _Reward | None] | None = None
    calls: list[_Call] | None = None


class _Episode(ForeignJson):
    """What is read of a line of the log; more is checked as an outcome."""

    run: _Run | None = None
    task: _Task | None = None
    traces: list[_Trace] | None = None


def _read_log(path: Path, begin: int, reward_column: str | None) -> Iterator[Entry]:
    """The traces of agents that are trained, over all episodes; a trace that failed has no reward."""
    if reward_column is not None:
        raise OutcomeError(
            f"--reward-column {reward_column}: a log of prime-rl has no columns, and the reward is the "
            "weighted sum that it trains on. Leave the option out."
        )
    match = re.search(r"step_(\d+)", str(path.parent))
    for number, episode in objects(path, begin):
        see_row(_Episode, episode, path, number)
        work = (episode.get("run") or {}).get("work") or {}
        if work.get("type", "train") != "train":
            continue
        # One that failed before its first trace has none; its rollout could not be judged.
        for trace in episode.get("traces") or [{"id": episode.get("id")}]:
            if not (trace.get("agent") or {}).get("trainable", True):
                continue
            data = (trace.get("task") or episode.get("task") or {}).get("data") or {}
            rewards = [reward for reward in (trace.get("rewards") or {}).values() if reward is not None]
            judged = trace.get("ok") and rewards
            usages = [call.get("usage") or {} for call in trace.get("calls") or []]
            prompt, system = data.get("prompt"), data.get("system_prompt")
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            if messages and system is not None:
                messages = [{"role": "system", "content": system}, *messages]
            yield Entry(
                f"{path.name}, line {number}",
                sum(reward["score"] * reward.get("weight", 1.0) for reward in rewards) if judged else None,
                data.get("gc_id"),
                int(match[1]) if match else work.get("step"),
                trace.get("id"),
                messages=messages,
                name=data.get("name"),
                tokens=sum(usage.get("completion_tokens") or 0 for usage in usages) or None,
            )


PROFILE = Profile(
    name="prime-rl",
    version="559b4477 (2026-08-21)",
    reserved=words(
        "description image workdir agent_user skills network_allow network_block artifacts "
        "artifact_max_bytes timeout resources"
    ),
    scores_refused="prime-rl tells tasks apart by a hash of all their fields, so every new scoring "
    "would make new tasks of them",
    columns=_columns,
    launch=_launch,
    rendering=Rendering(
        {"orchestrator.train.sampling.extra_body.chat_template_kwargs": ""},
        adds={f"{at}tokenizer.chat_template": "a chat template" for at in ("", "trainer.", "orchestrator.")},
        code="the taskset of the environment",
    ),
    layout=Layout(
        folders=("broadcasts/step_*", "step_*", "*/broadcasts/step_*", "checkpoints/step_*"),
        step=r"step_(\d+)",
        marker="`STABLE` is in `broadcasts/step_N` (later versions: `.finished`)",
        unfinished=_prime_rl,
        weights=(".",),
        setting='weight_broadcast.type = "filesystem"',
        adapters=(".",),
        sharded=(Sharded("trainer/*", None, apart=True),),
    ),
    log=LogFormat(files="train/all/traces.jsonl", keys=frozenset({"task", "traces"}), read=_read_log),
)

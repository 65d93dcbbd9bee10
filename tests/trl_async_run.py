"""TRL's asynchronous trainer and its worker follow a run on a CPU, with stand-ins for what needs a GPU.

The stand-ins are the generator (`StandIn._generate_one_turn`, for a vLLM server), the transfer of weights to it
and the attention kernel. The trainer, its worker process, its queues and its scoring are TRL's own.

Usage: trl_async_run.py train MODEL RUN OUTPUT [key=value ...], with the fields of AsyncGRPOConfig and `kill`, the
step after which the trainer kills itself. Or: trl_async_run.py kills MODEL RUN OUTPUT kills=N, which runs the worker's
loop alone, in forked processes, each killed when more outcomes have come. Rewards are logged in
OUTPUT/rewards.jsonl.
"""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import os
import queue
import random
import sys
import time
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.state import PartialState
from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer, async_grpo_trainer, packing
from trl.experimental.async_grpo import async_rollout_worker as worker

from gaincurate.trainers.trl import async_arguments
from trl_run import Killer, arguments

GROUP = 2
LOG = "GAINCURATE_TEST_LOG"


def log(name: str, gc_draw: list[int], gc_id: list[str], rewards: list[Any]) -> None:
    """Append what a reward function gave a group, in one write."""
    line = json.dumps({"name": name, "draw": gc_draw[0], "id": gc_id[0], "rewards": rewards}) + "\n"
    file = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def half(completions: list[Any], gc_draw: list[int], gc_id: list[str], **columns: Any) -> list[float]:
    """A reward by the completion's length."""
    rewards = [len(completion[0]["content"]) % 2 / 2 for completion in completions]
    log("half", gc_draw, gc_id, rewards)
    return rewards


class Judge:
    """An asynchronous one that cannot judge all."""

    async def __call__(self, completions: list[Any], gc_draw: Any, gc_id: Any, **columns: Any) -> list[Any]:
        await asyncio.sleep(0.001)
        rewards = [[0.0, 0.5, None][len(completion[0]["content"]) % 3] for completion in completions]
        log("judge", gc_draw, gc_id, rewards)
        return rewards


class StandIn(worker._AsyncRolloutLoop):  # type: ignore[misc]
    """TRL's loop, which asks no server."""

    async def _run_loops(self, stop_event: asyncio.Event) -> None:
        await asyncio.gather(self._generate_loop(stop_event), self._score_loop(stop_event))

    async def _generate_one_turn(self, prompt_ids: list[int]) -> tuple[list[int], list[float]]:
        await asyncio.sleep(random.expovariate(1000))  # groups do not end in the order in which they began
        count = random.randint(1, 4)
        return [random.randrange(3, 250) for _ in range(count)], [-5.0] * count


class Worker(worker.AsyncRolloutWorker):  # type: ignore[misc]
    _loop_cls = StandIn


class NoTransfer:
    """No server needs the weights."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *given: None


def attention(query: Any, key: Any, value: Any, ends: Any, of: Any, *most: int, **options: Any) -> Any:
    """flash_attn_varlen_func in plain torch: causal, aligned at the end."""
    parts = []
    for (a, b), (c, d) in zip(pairwise(ends), pairwise(of), strict=True):
        q, k, v = (part.transpose(0, 1) for part in (query[a:b], key[c:d], value[c:d]))
        k, v = (part.repeat_interleave(len(q) // len(k), 0) for part in (k, v))
        later = torch.ones(int(b - a), int(d - c)).triu(int(d - c - b + a) + 1).bool()
        scores = (q @ k.transpose(1, 2) * options["softmax_scale"]).masked_fill(later, -math.inf)
        parts.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts)


def loop_options(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """What TRL gives its worker."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    return {
        "model_name": model, "dataset": given["train_dataset"], "reward_funcs": given["reward_funcs"],
        "processing_class": tokenizer, "eos_token_ids": [tokenizer.eos_token_id], "num_generations": GROUP,
        "max_inflight_tasks": 8, "max_tokens": 4,
    }  # fmt: skip


def train(model: str, run: Path, output: Path, options: dict[str, Any]) -> None:
    """Train, from the newest checkpoint if there is one."""
    worker.is_vllm_available = worker.is_aiohttp_available = lambda: True
    packing._flash_attn = lambda: types.SimpleNamespace(flash_attn_varlen_func=attention)
    async_grpo_trainer.get_peak_flops_per_device = lambda *given: None
    kill = options.pop("kill", None)
    given = async_arguments(run, [half, Judge()])
    args = AsyncGRPOConfig(
        output_dir=str(output), num_generations=GROUP, max_inflight_tasks=8, max_completion_length=4,
        token_budget=0, use_cpu=True, bf16=False, report_to="none", **options,
    )  # fmt: skip
    rollouts = Worker(queue_maxsize=16, **loop_options(model, given))
    trainer = AsyncGRPOTrainer(
        model, args=args, rollout_worker=rollouts, weight_transfer=NoTransfer(), **given
    )
    if kill is not None:
        trainer.add_callback(Killer(kill))
    trainer.train(resume_from_checkpoint=any(output.glob("checkpoint-*")) or None)


def loop(model: str, run: Path) -> None:
    """The worker's loop, until this process is killed."""
    PartialState()  # as TRL's worker process begins
    given = async_arguments(run, half)
    context = multiprocessing.get_context("fork")
    StandIn(
        **loop_options(model, given),
        rollout_buffer=queue.Queue(),
        model_version_value=context.Value("i", 0),
        heartbeat_value=context.Value("d", 0.0),
        failed_event=context.Event(),
        exception_info_queue=queue.Queue(),
        metrics_queue=queue.Queue(),
    ).run()


def kill_loops(model: str, run: Path, kills: int) -> None:
    """Kill the loop so often, at random instants, and once more when all outcomes are there."""
    context, chance = multiprocessing.get_context("fork"), random.Random(0)

    def lines() -> int:
        return sum(path.read_bytes().count(b"\n") for path in run.glob("rounds/*/outcomes.jsonl"))

    config = json.loads((run / "run.json").read_text())["config"]
    every = config["budget"] * config["rounds"] * GROUP
    for number in range(kills + 1):
        before = lines()
        more = chance.randint(1, max((every - before) // (kills - number), 1)) if number < kills else every
        enough = min(before + more, every)
        process = context.Process(target=loop, args=(model, run), daemon=True)
        process.start()
        while process.is_alive() and lines() < enough:
            time.sleep(chance.random() / 100)
        process.kill()
        process.join()
        assert process.exitcode == -9, process.exitcode


def main() -> None:
    """Either."""
    mode = sys.argv.pop(1)
    model, run, output, options = arguments()
    output.mkdir(exist_ok=True)
    os.environ[LOG] = str(output / "rewards.jsonl")
    if mode == "train":
        train(model, run, output, options)
    else:
        kill_loops(model, run, options["kills"])


if __name__ == "__main__":
    main()

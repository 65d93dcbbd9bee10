"""How replay divides a TRL trainer's batch, and the settings that would break it (TRL 1.16.0).

What also holds for a run without replay (how rows are dealt, when checkpoints are saved) is in `rules.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from gaincurate.replay.config import ReplayConfig
from gaincurate.trainers.doctor.findings import Context, Finding, ask, refuse
from gaincurate.trainers.replay_loss import Clip
from gaincurate.trainers.trl.batching import resolved
from gaincurate.trainers.trl.checks import reward_missing
from gaincurate.trainers.trl.rules import dealing, optimizer, saves_anywhere, window

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo")  # those that clip a ratio by token


@dataclass(frozen=True, slots=True)
class Replay:
    """What a user chooses.

    Args:
        capacity: prompts with their rollouts in the buffer at most, C; the paper's 256 and 512 are half and
            the whole of its batch.
        fresh_share: of a generation's prompts that are generated for, delta; the rest comes from the buffer.
        max_age: optimizer updates after which a group is not replayed; None for no limit.
        clip: what a ratio is clipped around: `one`, or `old` for pi_old / pi_behaviour, which costs a forward
            pass over what is replayed.
        correct: the name of the reward function that tells right from wrong, 0 to 1, for rewards that are
            shaped; the weighted sum of all, if not given.
        seed: of the draws; the trainer's own, if not given.
        begin_empty: resume also from a checkpoint of a trainer that did not replay.
        ledger: a folder where all that is generated is kept too; see `gaincurate.replay.ledger`.
        ledger_versions: updates after which it is dropped there; None keeps all.
    """

    capacity: int
    fresh_share: float = 0.5
    max_age: int | None = None
    clip: Clip = "one"
    correct: str | None = None
    seed: int | None = None
    begin_empty: bool = False
    ledger: str | Path | None = None
    ledger_versions: int | None = None


def config_of(trainer: Any, replay: Replay) -> ReplayConfig:
    """The sizes of the buffer for a trainer.

    Raises:
        InputError: sizes under which nothing would be replayed.
    """
    args = trainer.args
    return ReplayConfig(
        batch_groups=args.generation_batch_size // trainer.num_generations,
        group_size=trainer.num_generations,
        capacity=replay.capacity,
        fresh_share=replay.fresh_share,
        max_age=replay.max_age,
        seed=args.seed if replay.seed is None else replay.seed,
    )


def check_replay(trainer: Any, replay: Replay, config: ReplayConfig) -> None:
    """Refuse settings under which rollouts would be replayed wrongly, or that were not made to work with it.

    Raises:
        InputError: a sentence for each, with what fixes it.
    """
    findings = [*_choices(trainer, replay), *_sizes(trainer, config), *_loss(trainer), *_rollouts(trainer)]
    shared, _ = ask((dealing, optimizer, window, saves_anywhere), resolved(trainer), Context("live"))
    refuse([*findings, *shared], repr)


def _finding(title: str, advice: str = "", **fix: Any) -> Finding:
    return Finding("replay", "stops", title, fix, advice)


def _choices(trainer: Any, replay: Replay) -> Iterator[Finding]:
    if replay.clip not in get_args(Clip):
        yield _finding(f"clip={replay.clip!r} is not there; it is one of {', '.join(get_args(Clip))}")
    names = list(trainer.reward_func_names)
    if replay.correct is not None and names.count(replay.correct) != 1:
        yield reward_missing(names, replay.correct)


def _sizes(trainer: Any, config: ReplayConfig) -> Iterator[Finding]:
    args, processes = trainer.args, trainer.accelerator.num_processes
    parts, rollouts = processes * args.steps_per_generation, config.fresh_groups * config.group_size
    if rollouts % parts:
        yield _finding(
            f"fresh_share {config.fresh_share:g} of {config.batch_groups} prompts is {config.fresh_groups}, "
            f"whose {rollouts} rollouts do not divide by {parts}, {processes} processes with "
            f"{args.steps_per_generation} micro-batches each",
            "take a larger per_device_train_batch_size, now "
            f"{args.per_device_train_batch_size}, with fewer steps_per_generation, or another fresh_share",
        )


def _loss(trainer: Any) -> Iterator[Finding]:
    if trainer.loss_type not in LOSSES:
        yield _finding(
            f"loss_type={trainer.loss_type!r} clips no ratio by token",
            f"take one of {', '.join(LOSSES)}: 'grpo' is the paper's mean",
        )
    if trainer.importance_sampling_level != "token":
        yield _finding(
            f"importance_sampling_level={trainer.importance_sampling_level!r} has no ratio for each token",
            importance_sampling_level="token",
        )
    if trainer.top_entropy_quantile < 1:
        yield _finding(
            f"top_entropy_quantile={trainer.top_entropy_quantile:g} would choose tokens by one threshold "
            "over fresh and replayed ones",
            top_entropy_quantile=1,
        )
    if trainer.off_policy_mask_threshold is not None:
        yield _finding(
            f"off_policy_mask_threshold={trainer.off_policy_mask_threshold} drops what is off-policy, which "
            "is what is replayed",
            "or use Replay(max_age=...) instead",
            off_policy_mask_threshold=None,
        )
    if trainer.beta != 0:
        yield _finding(
            f"beta={trainer.beta:g} needs a reference policy's log-probs of replayed rollouts, which are not "
            "made",
            beta=0,
        )
    if not trainer.use_vllm:
        return
    if trainer.vllm_importance_sampling_correction:
        yield _finding(
            "vllm_importance_sampling_correction=True would correct twice: replay's ratios are against what "
            "vLLM sampled with",
            vllm_importance_sampling_correction=False,
        )
    yield from _sampling(trainer)


def _sampling(trainer: Any) -> Iterator[Finding]:
    """VLLM gives the log-probs of what it drew from, and a trainer's are of the whole vocabulary."""
    usual: dict[str, tuple[Any, ...]] = {
        "top_p": (None, 1),
        "top_k": (None, 0, -1),
        "min_p": (None, 0),
        "repetition_penalty": (None, 1),
    }
    given = {name: getattr(trainer, name) for name in usual}
    given |= {k: v for k, v in (trainer.args.generation_kwargs or {}).items() if k in usual}
    for name, value in given.items():
        if value not in usual[name]:
            yield _finding(
                f"{name}={value:g} with vLLM: its log-probs are of what is left after that, the trainer's of "
                "the whole vocabulary, so a ratio of the two is none of two policies",
                "leave it out",
            )


def _rollouts(trainer: Any) -> Iterator[Finding]:
    unfit = {
        "tools": bool(trainer.tools),
        "environment_factory": trainer.environment_factories is not None,
        "rollout_func": trainer.rollout_func is not None,
        "a model with images": bool(getattr(trainer, "_is_vlm", False)),
    }
    for what, there in unfit.items():
        if there:
            yield _finding(f"{what}: replay stores text that the trainer itself generated, and no more")
    if not hasattr(trainer.train_dataset, "__getitem__"):
        yield _finding(
            f"train_dataset is a {type(trainer.train_dataset).__name__}, which TRL deals out in whole "
            "batches; replay needs fewer prompts per step",
            "give a map-style dataset",
        )

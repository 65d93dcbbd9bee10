"""How replay divides a TRL trainer's batch: takes its settings, yields sizes, or says what would break it.

Read in TRL 1.16.0. Knows nothing of rollouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from gaincurate.errors import InputError
from gaincurate.replay.config import ReplayConfig
from gaincurate.trainers.replay_loss import Clip

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
        InputError: with the setting that mends it.
    """
    if replay.clip not in get_args(Clip):
        raise InputError(f"clip={replay.clip!r} is not there; it is one of {', '.join(get_args(Clip))}.")
    _check_correct(trainer, replay)
    _check_sizes(trainer, config)
    _check_loss(trainer)
    _check_rollouts(trainer)
    _check_saving(trainer)


def _check_correct(trainer: Any, replay: Replay) -> None:
    names = list(trainer.reward_func_names)
    if replay.correct is not None and names.count(replay.correct) != 1:
        why = "is there more than once" if replay.correct in names else "is not there"
        raise InputError(f"the reward function {replay.correct!r} {why}; the trainer has {', '.join(names)}.")


def _check_sizes(trainer: Any, config: ReplayConfig) -> None:
    args, processes = trainer.args, trainer.accelerator.num_processes
    parts, rollouts = processes * args.steps_per_generation, config.fresh_groups * config.group_size
    if rollouts % parts:
        raise InputError(
            f"fresh_share {config.fresh_share:g} of {config.batch_groups} prompts is {config.fresh_groups}, "
            f"whose {rollouts} rollouts do not divide by {parts}, {processes} processes with "
            f"{args.steps_per_generation} micro-batches each. Take a larger per_device_train_batch_size, now "
            f"{args.per_device_train_batch_size}, with fewer steps_per_generation, or another fresh_share."
        )


def _check_loss(trainer: Any) -> None:
    wrong = {
        f"loss_type={trainer.loss_type!r}": (
            trainer.loss_type not in LOSSES,
            f"clips no ratio by token; take one of {', '.join(LOSSES)}: 'grpo' is the paper's mean",
        ),
        f"importance_sampling_level={trainer.importance_sampling_level!r}": (
            trainer.importance_sampling_level != "token",
            "has no ratio for each token; set it to 'token'",
        ),
        f"top_entropy_quantile={trainer.top_entropy_quantile:g}": (
            trainer.top_entropy_quantile < 1,
            "would choose tokens by one threshold over fresh and replayed ones; set it to 1",
        ),
        f"off_policy_mask_threshold={trainer.off_policy_mask_threshold}": (
            trainer.off_policy_mask_threshold is not None,
            "drops what is off-policy, which is what is replayed; use Replay(max_age=...) instead",
        ),
        f"beta={trainer.beta:g}": (
            trainer.beta != 0,
            "needs a reference policy's log-probs of replayed rollouts, which are not made; set it to 0",
        ),
        "vllm_importance_sampling_correction=True": (
            bool(trainer.use_vllm and trainer.vllm_importance_sampling_correction),
            "would correct twice: replay's ratios are against what vLLM sampled with; set it to False",
        ),
    }
    for setting, (there, why) in wrong.items():
        if there:
            raise InputError(f"{setting} {why}.")
    if trainer.use_vllm:
        _check_sampling(trainer)


def _check_sampling(trainer: Any) -> None:
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
            raise InputError(
                f"{name}={value:g} with vLLM: its log-probs are of what is left after that, the trainer's of "
                "the whole vocabulary, so a ratio of the two is none of two policies; leave it out."
            )


def _check_rollouts(trainer: Any) -> None:
    args = trainer.args
    wrong = {
        "tools": bool(trainer.tools),
        "environment_factory": trainer.environment_factories is not None,
        "rollout_func": trainer.rollout_func is not None,
        "a model with images": bool(getattr(trainer, "_is_vlm", False)),
    }
    for what, there in wrong.items():
        if there:
            raise InputError(f"{what}: replay stores text that the trainer itself generated, and no more.")
    if not hasattr(trainer.train_dataset, "__getitem__"):
        raise InputError(
            f"train_dataset is a {type(trainer.train_dataset).__name__}, which TRL deals out in whole "
            "batches; replay needs fewer prompts a step: give a map-style dataset."
        )
    for name in ("split_batches", "dispatch_batches"):
        if getattr(args.accelerator_config, name, None):
            raise InputError(
                f"accelerator_config {name}=True deals rows to processes in another way than GRPO groups "
                "need; leave it out."
            )


def _check_saving(trainer: Any) -> None:
    args = trainer.args
    strategy, every = str(getattr(args.save_strategy, "value", args.save_strategy)), args.save_steps
    if strategy == "no":
        return
    if args.save_only_model:
        raise InputError(
            "save_only_model=True saves no optimizer, so no resume goes on where it was; set it to False, or "
            "save_strategy='no'."
        )
    repeats = args.steps_per_generation * trainer.num_iterations
    if strategy == "best" or (strategy == "steps" and every * args.gradient_accumulation_steps % repeats):
        given = f"save_steps={every:g}" if strategy == "steps" else "save_strategy='best'"
        raise InputError(
            f"{given} saves inside a generation's window of {repeats} micro-batches: a resumed trainer would "
            "generate anew in the middle of it, and replay other groups. Save after whole generations."
        )

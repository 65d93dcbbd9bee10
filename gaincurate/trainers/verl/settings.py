"""verl's settings for a run: takes a run, yields Hydra overrides, or takes settings and yields what is wrong.

Everything that would shuffle, prefetch, drop or never report a round's prompts is a sentence with the
setting that mends it. Knows nothing of verl's code: settings are looked up by their dotted names (verl 0.9.1,
`ppo_trainer.yaml`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gaincurate.errors import InputError
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.rescore import due
from gaincurate.schedule.run import RUN, Run

Lookup = Callable[[str], Any]
"""A setting by its dotted name; None where there is none."""

MODULE = "gaincurate.trainers.verl"
WITH_WEIGHTS = "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]"
"""What makes verl write Hugging Face weights, which are scored."""
_DATASET = f"data.custom_cls.path=pkg://{MODULE} data.custom_cls.name=RunDataset"
_SAMPLER = "trainer.v1.sampler.custom_sampler"
_TAP = f"{_SAMPLER}.path=pkg://{MODULE} {_SAMPLER}.name=RunReplayBuffer"
_CALLBACK = f"trainer.checkpoint_callback_class={MODULE}.RunCheckpoint"
_CONTENTS, _ASYNC_SAVE = (f"actor_rollout_ref.actor.checkpoint.{n}" for n in ("save_contents", "async_save"))
_CURRICULUM = f"data.sampler.class_path=pkg://{MODULE}_sampler data.sampler.class_name=RunSampler"
_WORKERS = (
    "data.dataloader_num_workers={} reads rows of the next round before it is planned: set "
    "data.dataloader_num_workers=0."
)
_BARE = re.compile(r"[\w./:@+-]+")  # what Hydra reads as it is


def overrides(run: str | Path, batch: int | None = None) -> list[str]:
    """What to put behind `python -m verl.trainer.main_ppo` so that it follows a run.

    Args:
        run: the run's folder.
        batch: prompts a step. Default: the run's `--align-to`, else a round a step.

    Raises:
        InputError: `batch` does not divide the budget.
        OutputError: no run is there.
    """
    opened = Run(Path(run).resolve())
    config = opened.config
    size = _batch_of(config, batch)
    found = [
        f"data.train_files={_quoted(str(opened.folder))}",
        *_DATASET.split(),
        "data.shuffle=False",
        "data.dataloader_num_workers=0",
        f"data.train_batch_size={size}",
        f"trainer.total_epochs={config.rounds}",
        *_TAP.split(),
        _CALLBACK,
    ]
    if (period := _scoring_period(config, size)) is not None:
        found += [WITH_WEIGHTS, f"trainer.save_freq={period}"]
    return found


def sampler_overrides(run: str | Path, batch: int | None = None) -> list[str]:
    """The same for verl 0.5 to 0.7.1, where `data.train_files` is what `gaincurate export` wrote.

    Args:
        run: the run's folder.
        batch: prompts a step. Default: the run's `--align-to`, else a round a step.

    Raises:
        InputError: `batch` does not divide the budget.
        OutputError: no run is there.
    """
    opened = Run(Path(run).resolve())
    return [
        *_CURRICULUM.split(),
        f"+data.sampler.run={_quoted(str(opened.folder))}",
        "data.dataloader_num_workers=0",
        f"data.train_batch_size={_batch_of(opened.config, batch)}",
        f"trainer.total_epochs={opened.config.rounds}",
    ]


def _batch_of(config: ScheduleConfig, batch: int | None) -> int:
    size = batch or (config.align_to if config.align_to > 1 else config.budget)
    if config.budget % size:
        raise InputError(_uneven(size, config.budget))
    return size


def run_in(files: Any) -> Path | None:
    """The run's folder that `data.train_files` or `data.val_files` names; None where those are files."""
    several = [files] if isinstance(files, str | Path) or files is None else list(files)
    if len(several) != 1 or several[0] is None:
        return None
    folder = Path(several[0]).expanduser()
    return folder.resolve() if (folder / RUN).is_file() else None


def no_run(files: Any) -> InputError:
    """The sentence for training files that are no run."""
    return InputError(
        f"data.train_files is {files}, which is no run, so there is no plan to train by: set it to the "
        f"folder that `gaincurate schedule start` made. To train without a run, leave {_DATASET} out."
    )


def no_callback(run: Path) -> InputError:
    """The sentence for a training whose settings nobody checked."""
    return InputError(
        f"verl follows {run} only together with its checkpoint callback, which sees all settings: set "
        f"{_CALLBACK} (and leave trainer.use_v1=True; the old trainer has no callback)."
    )


def check(setting: Lookup, run: Run) -> None:
    """Refuse settings under which verl would not train by the plan, or the plan not follow verl.

    Raises:
        InputError: all that is wrong, a sentence each.
    """
    if found := list(problems(setting, run)):
        raise InputError("\n".join(found))


def problems(setting: Lookup, run: Run) -> Iterator[str]:
    """What is wrong with verl's settings, a sentence each with the setting that mends it."""
    if setting("data.custom_cls.path") is None:
        yield f"data.custom_cls is not set, so verl would read {run.folder} as a data file: set {_DATASET}."
    if setting(f"{_SAMPLER}.path") is None:
        yield f"{_SAMPLER} is not set, so no outcome would reach the run: set {_TAP}."
    yield from _data_problems(setting, run)
    yield from _loop_problems(setting, run)
    if due_somewhere(run.config):
        yield from _scoring_problems(setting, run)


def no_sampler_run(run: Any) -> InputError:
    """The sentence for a curriculum sampler without a run."""
    return InputError(
        f"data.sampler.run is {run}, which is no run, so there is no plan to train by: set +data.sampler.run "
        "to the folder that `gaincurate schedule start` made."
    )


def check_sampler(batch: Any, workers: Any, run: Run) -> None:
    """Refuse what the curriculum sampler of verl 0.5 to 0.7.1 sees of wrong settings.

    Raises:
        InputError: all that is wrong, a sentence each.
    """
    found = [] if batch and run.config.budget % batch == 0 else [_uneven(batch, run.config.budget)]
    if workers != 0:
        found.append(_WORKERS.format(workers))
    if due_somewhere(run.config):
        found.append(
            "the run scores anew at checkpoints, and this verl tells a sampler of none: start it with "
            "--rescore off, use verl 0.9.1, or let `gaincurate schedule run` start verl each round."
        )
    if found:
        raise InputError("\n".join(found))


def due_somewhere(config: ScheduleConfig) -> bool:
    """Whether any round of a run ends with a re-scoring."""
    return any(due(config, round_) for round_ in range(config.rounds))


def _uneven(batch: Any, budget: int) -> str:
    return (
        f"data.train_batch_size is {batch} and a round has {budget:,} prompts, which is no multiple: a batch "
        f"would lie in two rounds. Set it to a divisor of {budget:,}, or start a run with --align-to {batch}."
    )


def _data_problems(setting: Lookup, run: Run) -> Iterator[str]:
    if setting("data.shuffle"):
        yield "data.shuffle=True would shuffle the round's order: set data.shuffle=False."
    if workers := setting("data.dataloader_num_workers"):
        yield _WORKERS.format(workers)
    batch = setting("data.train_batch_size")
    if not batch or run.config.budget % batch:
        yield _uneven(batch, run.config.budget)
    if (setting("data.train_max_samples") or -1) > 0:
        yield (
            f"data.train_max_samples={setting('data.train_max_samples')} would cut rounds short: set "
            "data.train_max_samples=-1."
        )
    if setting("data.filter_overlong_prompts") and not run.config.bare:
        yield from _overlong(setting("data.max_prompt_length"), run)


def _overlong(longest: Any, run: Run) -> Iterator[str]:
    """By the tokens that were counted when the set was scored, before verl counts a round's own."""
    counts = run.scored.column("gc_prompt_tokens").to_numpy()
    if longest is not None and (over := int((counts > longest).sum())):
        first = run.scored.take([int((counts > longest).argmax())]).column("gc_id")[0].as_py()
        yield (
            f"data.filter_overlong_prompts=True would drop {over:,} prompts of {run.scored.folder} from "
            f"their rounds, {first} among them: they have up to {counts.max()} tokens and "
            f"data.max_prompt_length is {longest}. Set data.max_prompt_length={counts.max()}, or score "
            f"without them (`gaincurate score --max-length {longest} --on-overlong skip`)."
        )


def _loop_problems(setting: Lookup, run: Run) -> Iterator[str]:
    mode = setting("trainer.v1.trainer_mode")
    if mode != "sync":
        yield (
            f"trainer.v1.trainer_mode={mode} fetches prompts of the next round before this one's outcomes "
            "are in, and it cannot be planned yet: set trainer.v1.trainer_mode=sync."
        )
    for name in ("algorithm.filter_groups.enable", "trainer.v1.sampler.sync_refill_failed_groups"):
        if setting(name):
            yield (
                f"{name}=True replaces groups by prompts that the plan gives to later steps, and verl leaves "
                f"that to a custom sampler: set {name}=False (`--strategy variance` avoids prompts "
                "whose rollouts all agree)."
            )
    if (setting("trainer.v1.sync.parameter_sync_step") or 1) > 1:
        yield (
            "trainer.v1.sync.parameter_sync_step takes a step's prompts apart, and outcomes are taken a step "
            "at a time: set trainer.v1.sync.parameter_sync_step=1."
        )
    if setting("reward.reward_model.enable") and not setting("reward.reward_model.enable_resource_pool"):
        yield (
            "reward.reward_model without a resource pool of its own rewards rollouts after they were "
            "sampled, too late to be reported: set reward.reward_model.enable_resource_pool=True."
        )
    yield from _length_problems(setting, run.config)


def _length_problems(setting: Lookup, config: ScheduleConfig) -> Iterator[str]:
    epochs, steps = setting("trainer.total_epochs"), setting("trainer.total_training_steps")
    if epochs != config.rounds:
        yield (
            f"trainer.total_epochs is {epochs} and the run has {config.rounds} rounds, one an epoch: set "
            f"trainer.total_epochs={config.rounds}."
        )
    most = config.budget // (setting("data.train_batch_size") or config.budget) * config.rounds
    if steps is not None and steps > most:
        yield (
            f"trainer.total_training_steps is {steps:,} and the run's rounds have {most:,} steps: set "
            "trainer.total_training_steps=null."
        )


def _scoring_period(config: ScheduleConfig, batch: int) -> int | None:
    """Steps between two re-scorings; None where the run has none."""
    return config.budget // batch * config.rescore.every if due_somewhere(config) else None


def _scoring_problems(setting: Lookup, run: Run) -> Iterator[str]:
    if "hf_model" not in (setting(_CONTENTS) or []):
        yield (
            "the run scores anew at checkpoints, and verl's would have no weights to score: set "
            f"{WITH_WEIGHTS}."
        )
    if setting(_ASYNC_SAVE):
        yield (
            f"the run scores anew at checkpoints, which are not whole yet when they are due: set "
            f"{_ASYNC_SAVE}=False."
        )
    batch, every = setting("data.train_batch_size"), setting("trainer.save_freq") or 0
    period = _scoring_period(run.config, batch) if batch else None
    if period and (every <= 0 or period % every):
        yield (
            f"trainer.save_freq is {every} and the run scores anew every {period} steps, so a re-scoring "
            f"would find no checkpoint of its round: set trainer.save_freq to a divisor of {period}."
        )


def _quoted(text: str) -> str:
    """A value as Hydra reads it, quoted where it has to be."""
    if _BARE.fullmatch(text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

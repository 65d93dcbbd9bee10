"""The walk through a round against TRL's own sampler and arithmetic, and every setting that would break it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.errors import InputError
from gaincurate.schedule.config import RescoreConfig, ScheduleConfig
from gaincurate.trainers.trl.batching import Shape, check, see_checkpoint, shape_of

os.environ["HF_HUB_OFFLINE"] = "1"
trl = pytest.importorskip("trl")

from trl.trainer.utils import RepeatSampler  # noqa: E402

from gaincurate.trainers.trl.rows import RoundSampler  # noqa: E402

# TRL 1.16 sets an option by the name that transformers 5.23 has given up.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

SHAPES = st.builds(
    Shape,
    prompts=st.integers(1, 5),
    group=st.integers(2, 4),
    repeats=st.integers(1, 6),
    accumulation=st.integers(1, 6),
)


@given(SHAPES, st.integers(1, 4))
def test_a_round_is_walked_through_as_trl_walks_through_an_unshuffled_epoch(
    shape: Shape, generations: int
) -> None:
    places = [7 * k % 1000 for k in range(shape.prompts * generations)]
    sampler = RoundSampler(lambda: places, len(places), shape)
    theirs = RepeatSampler(
        data_source=places,
        mini_repeat_count=shape.group,
        batch_size=shape.prompts,
        repeat_count=shape.repeats,
        shuffle=False,
    )
    assert list(sampler) == [places[place] for place in theirs]
    assert len(sampler) == len(theirs) == len(list(sampler))


@given(SHAPES, st.integers(1, 8), st.data())
def test_steps_and_prompts_taken_follow_trls_arithmetic(
    shape: Shape, generations: int, data: st.DataObject
) -> None:
    budget = shape.prompts * generations
    batches = generations * shape.repeats
    if batches % shape.accumulation:
        return
    steps = shape.steps(budget)
    assert steps == math.ceil(batches / shape.accumulation)
    assert shape.taken(steps) == budget
    assert not shape.inside(steps)
    step = data.draw(st.integers(0, steps))
    # by brute force: walk through the micro-batches and see which generations were begun
    generated = len({batch // shape.repeats for batch in range(step * shape.accumulation)})
    if not shape.inside(step):
        assert shape.taken(step) == generated * shape.prompts
    assert shape.inside(shape.window * data.draw(st.integers(1, 5))) is False
    assert all(shape.inside(k) for k in range(1, shape.window))


def trainer(*, iterations: int = 1, processes: int = 1, rows: int = 16, **options: Any) -> Any:
    given: dict[str, Any] = {
        "output_dir": "out",
        "per_device_train_batch_size": 8,
        "num_generations": 2,
        "shuffle_dataset": False,
        "num_train_epochs": 3,
        "save_steps": 2,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
    }
    args = trl.GRPOConfig(**(given | options))
    return SimpleNamespace(
        args=args,
        num_generations=args.num_generations,
        num_iterations=iterations,
        shuffle_dataset=args.shuffle_dataset,
        train_dataset=range(rows),
        accelerator=SimpleNamespace(num_processes=processes, process_index=0, state=SimpleNamespace()),
    )


def config(rescore: str = "off", every: int = 1, **options: Any) -> ScheduleConfig:
    given: dict[str, Any] = {"strategy": "gain-rl", "budget": 16, "rounds": 3, "scored": "s", "run": "r"}
    return ScheduleConfig(**(given | options), rescore=RescoreConfig(what=rescore, every=every))  # type: ignore[arg-type]


def checked(made: Any, run: ScheduleConfig, *, late: bool = False) -> None:
    check(made, shape_of(made), run, late)


def test_the_shape_is_read_from_trls_own_settings() -> None:
    made = trainer(gradient_accumulation_steps=2, steps_per_generation=4, iterations=3)
    assert shape_of(made) == Shape(prompts=16, group=2, repeats=12, accumulation=2)
    assert shape_of(made).local == 32


def test_trls_defaults_but_for_what_must_be_set_are_fine() -> None:
    checked(trainer(), config())
    checked(trainer(save_strategy="no"), config())
    checked(trainer(max_steps=12), config())
    checked(trainer(max_steps=5), config())  # a part of the run
    checked(trainer(save_only_model=True, save_strategy="no"), config())
    checked(trainer(save_strategy="epoch"), config("window"))
    checked(trainer(save_steps=4), config("window", 2))
    checked(trainer(save_strategy="epoch"), config(options={"rollout": {"verifier": "math"}}))
    checked(trainer(save_strategy="no"), config(options={"rollout": {"verifier": "math", "server": "u"}}))
    checked(trainer(max_steps=12, save_steps=4, ignore_data_skip=True), config("round"), late=True)


@pytest.mark.parametrize(
    ("made", "run", "late", "sentence"),
    [
        (
            lambda: trainer(remove_unused_columns=True),
            config(),
            False,
            "remove_unused_columns=True drops gc_id before the reward functions see it; set it to False, TRL's own "
            "default.",
        ),
        (
            lambda: trainer(shuffle_dataset=True),
            config(),
            False,
            "shuffle_dataset=True: the order is the plan's, TRL must not shuffle; set shuffle_dataset=False.",
        ),
        (
            lambda: trainer(),
            config(budget=18),
            False,
            "the run's budget of 18 prompts is no multiple of the 4 that the trainer generates for at a time "
            "(generation_batch_size / num_generations), so the tail of every round would be dropped. Start the run "
            "with --align-to 4 --budget 20, or give a batch whose prompts divide 18.",
        ),
        (
            lambda: trainer(gradient_accumulation_steps=3, steps_per_generation=2),
            config(),
            False,
            "a round of 16 prompts gives 4 micro-batches, which is no multiple of gradient_accumulation_steps=3, so "
            "an optimizer step would end in the next round. Change one of the two.",
        ),
        (
            lambda: trainer(num_train_epochs=5),
            config(),
            False,
            "num_train_epochs=5, and the run has 3 rounds, each of which is an epoch: set num_train_epochs=3.",
        ),
        (
            lambda: trainer(max_steps=13),
            config(),
            False,
            "max_steps=13 is more than the run's 3 rounds of 4 steps; set max_steps=12 or start a run with more "
            "--rounds.",
        ),
        (
            lambda: trainer(),
            config(),
            True,
            "late=True goes by steps: set max_steps=12, 3 rounds of 4 steps.",
        ),
        (
            lambda: trainer(save_only_model=True),
            config(),
            False,
            "save_only_model=True saves no optimizer and no learning rate, so no resume goes on where it was; set it "
            "to False, or save_strategy='no'.",
        ),
        (
            lambda: trainer(
                steps_per_generation=4, gradient_accumulation_steps=1, save_steps=4, max_steps=10
            ),
            config(),
            False,
            "max_steps=10 ends inside a generation's window of 4 micro-batches, where no resume is exact; set a "
            "multiple of 4.",
        ),
        (
            lambda: trainer(gradient_accumulation_steps=2, steps_per_generation=1, max_steps=6, rows=20),
            config(),
            True,
            "train_dataset has 20 rows, so an epoch has 5 micro-batches, which is no multiple of "
            "gradient_accumulation_steps=2: its last step would be a shorter one and the rounds out of step. With "
            "late=True any rows will do: give 8 or a multiple of that.",
        ),
        (
            lambda: trainer(save_strategy="best", metric_for_best_model="loss", eval_strategy="steps"),
            config(),
            False,
            "save_strategy='best' saves at steps that nobody knows, also inside a generation's window, where no "
            "resume is exact; use 'steps' or 'epoch'.",
        ),
        (
            lambda: trainer(save_steps=0.5),
            config(),
            False,
            "save_steps=0.5 is a share; give a number of steps.",
        ),
        (
            lambda: trainer(steps_per_generation=4, gradient_accumulation_steps=1, save_steps=6),
            config(),
            False,
            "save_steps=6 saves inside a generation's window of 4 micro-batches: a resumed trainer would generate "
            "anew in the middle of it. Set save_steps to a multiple of 4.",
        ),
        (
            lambda: trainer(save_steps=3),
            config("window", 2),
            False,
            "--rescore window needs a checkpoint at the end of every 2 rounds of 4 steps, and "
            "save_strategy='steps', save_steps=3 leave none there. Set save_strategy='steps' and save_steps=8 or a "
            "divisor of it.",
        ),
        (
            lambda: trainer(save_strategy="no"),
            config("full"),
            False,
            "--rescore full needs a checkpoint at the end of every round of 4 steps, and save_strategy='no', "
            "save_steps=2 leave none there. Set save_strategy='steps' and save_steps=4 or a divisor of it.",
        ),
        (
            lambda: trainer(save_strategy="epoch", max_steps=12),
            config("full"),
            True,
            "--rescore full needs a checkpoint at the end of every round of 4 steps, and save_strategy='epoch', "
            "save_steps=2 leave none there. Set save_strategy='steps' and save_steps=4 or a divisor of it.",
        ),
        (
            lambda: trainer(save_steps=8),
            config(options={"rollout": {"verifier": "math"}}),
            False,
            "--rollout without a server needs a checkpoint at the end of every round of 4 steps, and "
            "save_strategy='steps', save_steps=8 leave none there. Set save_strategy='steps' and save_steps=4 or a "
            "divisor of it.",
        ),
        (
            lambda: trainer(save_strategy="epoch", max_steps=12),
            config("window", 2, options={"rollout": {"verifier": "math"}}),
            True,
            "--rollout without a server needs a checkpoint at the end of every round of 4 steps, and "
            "save_strategy='epoch', save_steps=2 leave none there. Set save_strategy='steps' and save_steps=4 or a "
            "divisor of it.",
        ),
        (
            lambda: trainer(ignore_data_skip=True),
            config(),
            False,
            "ignore_data_skip=True: a trainer that resumes inside a round would begin the round again; set it to "
            "False.",
        ),
        (
            lambda: trainer(accelerator_config={"split_batches": True}),
            config(),
            False,
            "accelerator_config split_batches=True deals rows to processes in another way than GRPO groups need; "
            "leave it out.",
        ),
    ],
)
def test_what_would_break_the_plan_is_refused_with_what_mends_it(
    made: Callable[[], Any], run: ScheduleConfig, late: bool, sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        checked(made(), run, late=late)
    assert str(caught.value) == sentence


def test_checkpoints_without_whole_weights_cannot_be_scored_with() -> None:
    made = trainer()
    made.is_fsdp_enabled = True
    made.accelerator.state.fsdp_plugin = SimpleNamespace(state_dict_type="StateDictType.SHARDED_STATE_DICT")
    checked(made, config())  # nobody scores with them
    with pytest.raises(
        InputError,
        match=r"^--rescore window needs whole weights in every checkpoint: FSDP saves SHARDED_STATE_DICT; set "
        r"fsdp_config state_dict_type=FULL_STATE_DICT\.$",
    ):
        checked(made, config("window"))
    with pytest.raises(
        InputError, match="^--rollout without a server needs whole weights in every checkpoint"
    ):
        checked(made, config(options={"rollout": {"verifier": "math"}}))
    made = trainer()
    made.is_deepspeed_enabled = True
    made.accelerator.state.deepspeed_plugin = SimpleNamespace(zero_stage=3, zero3_save_16bit_model=False)
    with pytest.raises(
        InputError, match="ZeRO-3 saves shards; set stage3_gather_16bit_weights_on_model_save=true"
    ):
        checked(made, config("window"))
    made.accelerator.state.deepspeed_plugin.zero3_save_16bit_model = True
    checked(made, config("window"))


@pytest.mark.parametrize("what", ["rollout", "rescore"])
def test_a_round_whose_next_one_takes_a_checkpoint_has_one_of_its_own_end(what: str) -> None:
    """By brute force over rounds and steps; four steps a round, of three rounds."""
    shape = Shape(prompts=4, group=2, repeats=1, accumulation=1)
    run = config("window", 2) if what == "rescore" else config(options={"rollout": {"verifier": "math"}})
    takes = {1: 8} if what == "rescore" else {0: 4, 1: 8}  # and none before the last round's end
    refused = {}
    for round_ in range(3):
        for saved in range(4 * round_ + 5):
            try:
                see_checkpoint(run, shape, round_, saved)
            except InputError as error:
                refused[round_, saved] = str(error)
    assert refused.keys() == {(round_, saved) for round_, end in takes.items() for saved in range(end)}
    for (round_, saved), said in refused.items():
        last = f"the newest checkpoint is of step {saved}" if saved else "no checkpoint was saved"
        assert said.startswith(f"round {round_} ended at step {takes[round_]}, and {last}: --r")

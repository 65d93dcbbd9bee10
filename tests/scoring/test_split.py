from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core.locks import Split
from gaincurate.errors import InputError
from gaincurate.scoring.config import read_split, split_of_job


def array(task: object, first: object, last: object, count: object) -> dict[str, str]:
    """The variables of a task of a Slurm array."""
    values = {"ID": task, "MIN": first, "MAX": last, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


STEP_OF_ONE = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
TORCHRUN = {"RANK": "2", "WORLD_SIZE": "8"}
POD = {"JOB_COMPLETION_INDEX": "3", "GAINCURATE_SHARDS": "4"}


@pytest.mark.parametrize(
    ("environment", "part", "source"),
    [
        (array(3, 1, 16, 16), "3/16", "SLURM_ARRAY_TASK_ID"),
        (array(0, 0, 15, 16), "1/16", "SLURM_ARRAY_TASK_ID"),
        (array(5, 5, 5, 1), "1/1", "SLURM_ARRAY_TASK_ID"),
        (array(3, 1, 16, 16) | STEP_OF_ONE | TORCHRUN | POD, "3/16", "SLURM_ARRAY_TASK_ID"),
        (POD | STEP_OF_ONE | TORCHRUN, "4/4", "JOB_COMPLETION_INDEX"),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"} | TORCHRUN, "4/4", "SLURM_PROCID"),
        (STEP_OF_ONE, "1/1", "SLURM_PROCID"),
        (TORCHRUN, "3/8", "RANK"),
        (TORCHRUN | {"SLURM_NTASKS": "4", "GAINCURATE_SHARDS": "9"}, "3/8", "RANK"),  # an allocation, no step
        (TORCHRUN | {"JOB_COMPLETION_INDEX": ""}, "3/8", "RANK"),
        ({"RANK": " 0 ", "WORLD_SIZE": "1\n"}, "1/1", "RANK"),
    ],
)
def test_the_part_and_the_variable_that_says_it(environment: dict[str, str], part: str, source: str) -> None:
    split = split_of_job({"HOME": "/", **environment})
    assert (str(split), split.source) == (part, source)


def test_a_shard_is_called_by_its_place_in_its_part() -> None:
    for split, count in ((Split(1, 2), 3), (Split(2, 2), 2)):
        names = [split.named(shard, 5) for shard in range(5) if split.owns(shard)]
        assert names == [f"part {split}: shard {number} of {count}" for number in range(1, count + 1)]
    assert Split().named(3, 5) == "shard 4 of 5"


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "none of these variables is set: SLURM_ARRAY_TASK_ID with SLURM_ARRAY_TASK_COUNT, JOB_COMPL"),
        (array(3, 1, 4, ""), "SLURM_ARRAY_TASK_COUNT is '', not a whole number"),
        (array(1, 1, 7, 3), "not one of 3 array ids without gaps from 1 to 7"),  # --array=1,3,7
        (array(17, 1, 16, 16), "task 17 is not one of 16 array ids"),
        ({"JOB_COMPLETION_INDEX": "0"}, "GAINCURATE_SHARDS is ''"),
        (POD | {"JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX=4 is not below GAINCURATE_SHARDS=4"),
        ({"RANK": "٣", "WORLD_SIZE": "4"}, "RANK is '٣', not a whole number"),
    ],
)
def test_what_is_half_there_or_cannot_be_is_refused(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=r"^--shard auto: .*\.$") as raised:
        split_of_job(environment)
    assert sentence in str(raised.value)


@given(st.sets(st.integers(0, 9), min_size=1))
def test_the_tasks_of_an_array_are_all_its_parts_once_or_are_refused(ids: set[int]) -> None:
    """Else shards would have no part that writes them, without a word."""
    tasks = sorted(ids)
    environments = [array(task, tasks[0], tasks[-1], len(tasks)) for task in tasks]
    if tasks[-1] - tasks[0] == len(tasks) - 1:
        parts = [Split(place, len(tasks)) for place in range(1, len(tasks) + 1)]
        assert list(map(split_of_job, environments)) == parts
    else:
        with pytest.raises(InputError, match="ids without gaps"):
            list(map(split_of_job, environments))


def test_the_option_takes_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", TORCHRUN)
    assert (read_split("auto"), read_split("2/5")) == (Split(3, 8), Split(2, 5))
    assert read_split("2/5").source == ""
    for value in ("0/4", "5/4", "1", "", "1/" + "9" * 5000):
        with pytest.raises(InputError, match=r"expected I/N with I from 1 to N, such as 1/4, or auto\."):
            read_split(value)

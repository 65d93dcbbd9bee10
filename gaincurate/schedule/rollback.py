"""Takes a run back to where it was when a trainer saved a checkpoint.

A trainer that resumes from an older checkpoint does the steps after it again. What the run did since is set
aside, not deleted: rounds go to `undone/`, and outcomes after the step are taken back by a line in their
file. Killed at any instant, the run is at one of the rounds between, and going back again ends it.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

from gaincurate.core.artifact import Json
from gaincurate.core.files import append_line, digest_bytes, digest_file, digest_json, drop_half_line, reading
from gaincurate.core.foreign import read_bytes
from gaincurate.core.outcomes import earliest_return
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import OutputError
from gaincurate.schedule.run import GIVEN, MADE, PLAN, STATE, TRAINED, Run

FORMAT = 1


def saved_place(run: Run, step: int) -> Json:
    """The facts to save with a checkpoint of the trainer's step, so that `return_to` can go back to it."""
    state = run.state
    round_ = state["round"]
    lines = _whole_lines(run, round_)
    return {
        "format": FORMAT,
        "run": digest_json(run.facts),
        "round": round_,
        "step": step,
        "plan": digest_file(run.round_folder(round_) / PLAN),
        "outcomes": {"bytes": len(lines), "hash": digest_bytes(lines)},
        "state": state,
    }


def check_place(run: Run, saved: Json, where: str) -> None:
    """See that a place, which was read from `where`, is one of this run, in the history that it is in.

    Raises OutputError for another run's, one ahead of the run's folder, or one of rounds that were undone.
    """
    if saved["format"] != FORMAT:
        raise OutputError(f"{where} has format {saved['format']}, this version reads {FORMAT}.")
    if saved["run"] != digest_json(run.facts):
        raise OutputError(
            f"{where} was saved with another run than {run.folder}; give the run that this training began "
            "with."
        )
    round_ = saved["round"]
    plan = run.round_folder(round_) / PLAN
    if not plan.exists() and not any(run.folder.glob(f"undone/{round_:05d}-*")):
        raise OutputError(
            f"{where} is of round {round_}, which {run.folder} does not have: the run's folder is older than "
            "the checkpoint. Restore it, or resume from an earlier checkpoint."
        )
    undone = None
    lines, size = _whole_lines(run, round_), saved["outcomes"]["bytes"]
    if not plan.exists():
        undone = f"round {round_} was set aside in undone/"
    elif digest_file(plan) != saved["plan"]:
        undone = f"round {round_} was planned again since"
    elif digest_bytes(lines[:size]) != saved["outcomes"]["hash"]:
        undone = f"round {round_} was trained again since"
    elif (step := earliest_return(lines[size:])) is not None and step < saved["step"]:
        undone = f"training went back to step {step} since, before its step {saved['step']}"
    if undone is not None:
        raise OutputError(
            f"{where} is of a history that was undone: {undone}. Resume from a checkpoint that was saved "
            "after that, and delete this one."
        )


def _whole_lines(run: Run, round_: int) -> bytes:
    """The whole lines of a round's outcomes."""
    path = run.outcomes(round_)
    with reading(path):
        data = read_bytes(path) if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def return_to(run: Run, saved: Json, where: str) -> int:
    """Make a run what it was at a place that was saved, and return the number of rounds that were undone.

    Call it while holding `working_on`. Raises OutputError as `check_place`.
    """
    check_place(run, saved, where)
    round_, newest = int(saved["round"]), run.round
    forget_references(run, newest + 1)
    run.order(saved["state"]["order"])  # before anything is undone: that it is still there
    (run.folder / STATE).unlink(missing_ok=True)  # of a finished run: its newest round is open again
    write_sealed(run.round_folder(round_) / STATE, saved["state"])
    for undone in range(newest, round_, -1):
        forget_references(run, undone)
        _set_aside(run.round_folder(undone), run.folder / f"undone/{undone:05d}-{{}}")
    run.forget_ids()
    run.settle_order(saved["state"]["order"])
    take_back(run, round_, saved["step"])
    if newest > round_:
        run.log(what="back", round=newest, to=round_, step=saved["step"])
    return newest - round_


def take_back(run: Run, round_: int, step: int) -> None:
    """Take back a round's outcomes after a step, a half line at their end, and its later references."""
    forget_references(run, round_ + 1)
    if drop_half_line(run.outcomes(round_)):
        append_line(run.outcomes(round_), {"resume_from_step": step})


def forget_references(run: Run, round_: int) -> None:
    """Set aside what a round's references did, since the policy that they were of is trained again.

    Rollouts of a checkpoint whose weights are known stay where they are: whoever would use them compares.
    """
    source = run.references_folder(round_)
    by_run = not (source / GIVEN).exists() and (source / MADE).exists()
    if source.exists() and not (by_run and read_sealed(source / MADE)["weights"] is not None):
        _set_aside(source, run.folder / f"undone/difficulty-{round_:05d}-{{}}")


def forget_training(run: Run, round_: int) -> None:
    """Forget the newest round's training: its outcomes, good or bad, are kept under another name."""
    if run.outcomes(round_).exists():
        _set_aside(run.outcomes(round_), run.round_folder(round_) / "outcomes-{}.jsonl")
    with reading(run.round_folder(round_), "write"):
        (run.round_folder(round_) / TRAINED).unlink(missing_ok=True)
    forget_references(run, round_ + 1)


def _set_aside(source: Path, goal: Path) -> None:
    """Rename a file or folder to `goal`, with the first free number for the braces in its name."""
    with reading(goal.parent, "write"):
        goal.parent.mkdir(exist_ok=True)
        names = (goal.with_name(goal.name.format(number)) for number in count(1))
        source.rename(next(name for name in names if not name.exists()))

"""The model that a round begins with, a checkpoint or the first model; and the way back to a checkpoint.

A checkpoint is complete if it has a configuration, safetensors whose headers account for every byte, and a
`trainer_state.json` that is readable if there is one. This holds only for a trainer that has ended: one that
is still writing may add files. A trainer with another layout has its own `Finder`.

A trainer that resumes from an older checkpoint repeats the steps after it. The run's later work is set
aside, not deleted: rounds go to `undone/`, and a line in their file takes back the outcomes after the step.
If the process is killed, the run is at one of the rounds in between; going back again completes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

from gaincurate.core import files
from gaincurate.core.artifact import EXECUTION, Json
from gaincurate.core.foreign import is_utf8, json_file, json_value, open_regular, read_bytes
from gaincurate.core.outcomes import earliest_return
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import GaincurateError, InputError, ModelError, OutputError, TrainerError
from gaincurate.schedule.run import GIVEN, MADE, PLAN, STATE, TRAINED, Run
from gaincurate.scoring.model import find_model, hub_model

_DEPTH = 3
INDEX = "model.safetensors.index.json"
_LARGEST_HEADER = 100_000_000  # safetensors' own limit
_PLACE_FORMAT = 1


class Finder:
    """Finds the checkpoint that a round's training left. A subclass for a trainer overrides its methods.

    Its checkpoints may be in a form that `gaincurate score` cannot read, such as an adapter, if its `held`
    makes a readable folder of them.
    """

    def newest(self, output: Path, since: float) -> Path | None:
        """The newest complete checkpoint in a folder or up to three folders below it.

        The newest has the latest weights, or of two from the same time the larger step. A checkpoint that was
        there before `since` (seconds since 1970) does not count. This compares times of change (ctime),
        because a copied file keeps the time of modification of its original.
        """
        complete = [path for path in _candidates(output, _DEPTH) if why_incomplete(path) is None]
        new = [path for path in complete if max(file.stat().st_ctime for file in _weights(path)) >= since]
        return max(new, key=_age, default=None)

    def why_none(self, output: Path) -> str:
        """The reason why there is none: the missing part of the first incomplete one."""
        whys = (why_incomplete(path) for path in _candidates(output, _DEPTH))
        return next((why for why in whys if why is not None), "this attempt wrote none")

    def why_incomplete(self, checkpoint: Path) -> str | None:
        """Why the next round cannot begin with this checkpoint; None if it can."""
        return why_incomplete(checkpoint)

    def chosen(self, run: Run, root: Path) -> str:
        """The checkpoint of a round that was trained by hand."""
        return str(root)

    def held(self, run: Run, checkpoint: str) -> AbstractContextManager[str]:
        """Yield a folder that `gaincurate score` reads and that nobody changes."""
        return nullcontext(checkpoint)


Held = Callable[[Run, str], AbstractContextManager[str]]
"""Takes a run and a checkpoint, and yields the folder to read in place of it."""
AS_IT_IS: Held = Finder().held


def why_incomplete(folder: Path) -> str | None:
    """The missing part of a checkpoint; None if it is complete."""
    if not is_utf8(str(folder)):
        return f"{folder} has a name that is no UTF-8"
    if not folder.is_dir():
        return f"{folder} is no folder"
    if not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        return f"{folder} has only an adapter; let the trainer save the merged model"
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json"
    if (why := why_not_whole(folder)) is not None:
        return why
    if (folder / "trainer_state.json").exists() and _state(folder) is None:
        return f"{folder / 'trainer_state.json'} is not finished"
    return None


def why_not_whole(folder: Path) -> str | None:
    """The missing part of a folder's weights; None if all files have all their bytes."""
    names = weight_names(folder)
    if names is None:
        return f"{folder / INDEX} is not finished"
    for name in names:
        if not (folder / name).is_file():
            return f"{folder} has no {name}"
        if not whole(folder / name):
            return f"{folder / name} is not finished"
    return None


def weight_names(folder: Path) -> list[str] | None:
    """The files that a folder's weights are in, there or not; None if its index cannot be read."""
    if not (folder / INDEX).is_file():
        return ["model.safetensors"]
    try:
        names = sorted(set(json_file(folder / INDEX)["weight_map"].values()))
        plain = all(name == Path(name).name and not files.too_long(Path(name)) for name in names)
        return names if names and plain else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _candidates(folder: Path, depth: int) -> list[Path]:
    if not folder.is_dir():
        return []
    markers = ("config.json", "adapter_config.json", "model.safetensors", INDEX)
    folders = [folder] if any((folder / name).is_file() for name in markers) else []
    if depth:
        for below in sorted(folder.iterdir()):
            if below.is_dir() and not below.is_symlink():
                folders += _candidates(below, depth - 1)
    return folders


def _state(folder: Path) -> int | None:
    """The step in `trainer_state.json`; None if there is none or it is not finished."""
    try:
        step = json_file(folder / "trainer_state.json")["global_step"]
        return int(step) if 0 <= step < 2**63 else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _weights(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ".safetensors"]


def weights_of(folder: str) -> list[list[object]]:
    """Name, size and time of each weight file, which distinguish it from a later checkpoint in the folder."""
    weights = sorted(_weights(Path(folder)))
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in weights]


def _age(folder: Path) -> tuple[int, int]:
    step = _state(folder)
    if step is None:
        number = re.search(r"(\d+)\D*$", folder.name)
        step = int(number[1]) if number else -1
    return max(path.stat().st_mtime_ns for path in _weights(folder)), step


def whole(path: Path) -> bool:
    """Return whether a safetensors file has all the bytes that its header names."""
    try:
        header, start = safetensors_header(path)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(path.stat().st_size == start + max(ends, default=0))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def safetensors_header(path: Path) -> tuple[Json, int]:
    """The header of a safetensors file, an entry for each tensor by name, and the place where tensors begin.

    Raises OSError if it cannot be read, ValueError if it is truncated or not a safetensors file.
    """
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = json_value(file.read(length)) if 0 < length <= _LARGEST_HEADER else None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no safetensors file")
    return header, 8 + length


def checkpoint_before(run: Run, round_: int, command: Sequence[str], finder: Finder | None = None) -> str:
    """The model that the newest round's training begins with: the run's, or the last round's checkpoint.

    It is empty if it is not known and the command has no place for it. Raises InputError if it is not known
    and the command needs it, TrainerError if it is gone.
    """
    checkpoint = run.state["checkpoint"]
    if checkpoint is None and not any("{checkpoint}" in part for part in command):
        return ""
    if checkpoint is None:
        raise InputError(
            f"{run.folder} does not know the model that scored the set, which {{checkpoint}} is in round "
            "0; start the run with --model."
        )
    why = None if checkpoint == run.config.model else (finder or Finder()).why_incomplete(Path(checkpoint))
    if why is not None:
        raise TrainerError(
            f"round {round_} would begin with the checkpoint of round {round_ - 1}, which is gone: "
            f"{why}. Restore it; a trainer that deletes old checkpoints must keep the newest."
        )
    return str(checkpoint)


def recorded_model(folder: Path) -> str | None:
    """The model that scored a set: the alias, a whole path or a Hub id; None if it is not recorded."""
    return None if (place := _place(folder)) is None else str(place["name"])


def first_model(scored: ScoredSet, note: Callable[[str], None]) -> str | None:
    """The folder of the model that scored a set, or its .gguf file; None if the set does not record it.

    The scoring run's log names its place, which may hold another model by now. So this compares the hash of
    the weights with the one in the set's identity, because rounds with a wrong model cost more. For a model
    of the Hub or the demo model that is not on this machine it returns the name, with a note. Raises
    ModelError if the folder or file is gone or has other weights.
    """
    place = _place(scored.folder)
    if place is None:
        return None
    kind, name, wanted = place["kind"], place["name"], scored.identity["model"]
    weights = wanted.get("weights")
    try:  # this runs no file of the model, so pickled weights are no danger here
        if kind == "hub":
            revision = wanted.get("revision")
            pinned = name if revision is None else f"{name.partition('@')[0]}@{revision}"
            model = hub_model(pinned, allow_pickle=True)
        else:
            model = find_model(name, allow_pickle=True, to_load=False)  # the alias or a whole path
    except (ImportError, GaincurateError) as error:
        why = str(error)
        if kind != "local":
            note(
                f"warning: {name}, the model that scored {scored.folder}, is not on this machine: "
                f"{error} {{checkpoint}} is that name in round 0. --model gives another."
            )
            return str(name)
    else:
        # The set's identity may have the hash with or without the code of the repository.
        for each in (model, replace(model, trust_remote_code=True)):
            if weights is None or each.fingerprint()["weights"] == weights:
                return str(model.weights[0] if model.gguf else model.folder)
        why = "its weights have another hash than those in the set's identity."
    raise ModelError(
        f"{name} is not the model that scored {scored.folder}: {why} Give that model with --model, or score "
        "again with this one.",
        path=name,
    )


def _place(folder: Path) -> Json | None:
    """The newest entry of the scoring run's log: `kind` and `name`, as `place_of` gives them."""
    places = [entry["place"] for entry in files.log_lines(folder / EXECUTION) if "place" in entry]
    return places[-1] if places else None


def saved_place(run: Run, step: int) -> Json:
    """The facts to save with a checkpoint of the trainer's step, so that `return_to` can go back to it."""
    state = run.state
    round_ = state["round"]
    lines = _whole_lines(run, round_)
    return {
        "format": _PLACE_FORMAT,
        "run": files.digest_json(run.facts),
        "round": round_,
        "step": step,
        "plan": files.digest_file(run.round_folder(round_) / PLAN),
        "outcomes": {"bytes": len(lines), "hash": files.digest_bytes(lines)},
        "state": state,
    }


def check_place(run: Run, saved: Json, where: str) -> None:
    """Check that a place, which was read from `where`, belongs to this run and to its present history.

    Raises OutputError for a place of another run, of a later round than the run's folder has, or of rounds
    that were undone.
    """
    if saved["format"] != _PLACE_FORMAT:
        raise OutputError(f"{where} has format {saved['format']}, this version reads {_PLACE_FORMAT}.")
    if saved["run"] != files.digest_json(run.facts):
        other = f"was saved with another run than {run.folder}"
        raise OutputError(f"{where} {other}; give the run that this training began with.")
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
    elif files.digest_file(plan) != saved["plan"]:
        undone = f"round {round_} was planned again since"
    elif files.digest_bytes(lines[:size]) != saved["outcomes"]["hash"]:
        undone = f"round {round_} was trained again since"
    elif (step := earliest_return(lines[size:])) is not None and step < saved["step"]:
        undone = f"training went back to step {step} since, before its step {saved['step']}"
    if undone is not None:
        advice = "Resume from a checkpoint that was saved after that, and delete this one"
        raise OutputError(f"{where} is of a history that was undone: {undone}. {advice}.")


def _whole_lines(run: Run, round_: int) -> bytes:
    """The whole lines of a round's outcomes."""
    path = run.outcomes(round_)
    with files.reading(path):
        data = read_bytes(path) if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def return_to(run: Run, saved: Json, where: str) -> int:
    """Restore a run to a saved place, and return the number of rounds that this undid.

    Call it while holding `working_on`. Raises OutputError as `check_place` does.
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
    """Take back a round's outcomes after a step and the next round's references; drop a half line."""
    forget_references(run, round_ + 1)
    if files.drop_half_line(run.outcomes(round_)):
        files.append_lines(run.outcomes(round_), [{"resume_from_step": step}])


def forget_references(run: Run, round_: int) -> None:
    """Set aside the outcomes of a round's references, because their policy will be trained again.

    Rollouts of a checkpoint with recorded weights stay: the weights are compared before they are used.

    Raises:
        StorageError: the file system refused.
    """
    source = run.references_folder(round_)
    by_run = not (source / GIVEN).exists() and (source / MADE).exists()
    if source.exists() and not (by_run and read_sealed(source / MADE)["weights"] is not None):
        _set_aside(source, run.folder / f"undone/difficulty-{round_:05d}-{{}}")


def forget_training(run: Run, round_: int) -> None:
    """Forget the newest round's training; its outcomes are kept under another name."""
    if run.outcomes(round_).exists():
        _set_aside(run.outcomes(round_), run.round_folder(round_) / "outcomes-{}.jsonl")
    with files.reading(run.round_folder(round_), "write"):
        (run.round_folder(round_) / TRAINED).unlink(missing_ok=True)
    forget_references(run, round_ + 1)


def _set_aside(source: Path, goal: Path) -> None:
    """Rename a file or folder to `goal`, with the first free number for the braces in its name."""
    with files.reading(goal.parent, "write"):
        goal.parent.mkdir(exist_ok=True)
        names = (goal.with_name(goal.name.format(number)) for number in count(1))
        source.rename(next(name for name in names if not name.exists()))

"""The model that a run begins with: the one that scored its set, wherever the run is started.

The scoring run's log names its place. A place may hold another model by now, so the hash of the weights is
compared with the one in the set's identity: by hundreds of rounds a wrong model costs more than reading it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gaincurate.core.artifact import EXECUTION, Json
from gaincurate.core.files import log_lines
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import GaincurateError, ModelError
from gaincurate.scoring.model import find_model, hub_model


def recorded_model(folder: Path) -> str | None:
    """The model that scored a set: the alias, a whole path, or a Hub id. None where nothing says so."""
    place = _place(folder)
    return None if place is None else str(place["name"])


def first_model(scored: ScoredSet, note: Callable[[str], None]) -> str | None:
    """The folder of the model that scored a set, or its .gguf file.

    Returns:
        A path, the model's name with a note where it is not on this machine, or None where nothing says
        which it was.

    Raises:
        ModelError: its folder or file is gone, or has other weights.
    """
    place = _place(scored.folder)
    if place is None:
        return None
    kind, name, wanted = place["kind"], place["name"], scored.identity["model"]
    weights = wanted.get("weights")
    try:  # finding runs nothing of the files, so pickled weights are of no danger here
        if kind == "hub":
            revision = wanted.get("revision")
            pinned = name if revision is None else f"{name.partition('@')[0]}@{revision}"
            files = hub_model(pinned, allow_pickle=True)
        else:
            files = find_model(name, allow_pickle=True, to_load=False)  # the alias or a whole path
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
        for each in (files, replace(files, trust_remote_code=True)):
            if weights is None or each.fingerprint()["weights"] == weights:
                return str(files.weights[0] if files.gguf else files.folder)
        why = "its weights have another hash than those in the set's identity."
    raise ModelError(
        f"{name} is not the model that scored {scored.folder}: {why} Give that model with --model, or score "
        "again with this one.",
        path=name,
    )


def _place(folder: Path) -> Json | None:
    """The newest entry of the scoring run's log: `kind` and `name`, as `place_of` gives them."""
    places = [entry["place"] for entry in log_lines(folder / EXECUTION) if "place" in entry]
    return places[-1] if places else None

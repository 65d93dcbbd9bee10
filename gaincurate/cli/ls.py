"""`gaincurate ls`: the scored sets, rollout sets and runs below a folder, a line each.

It reads the small files of JSON that each of them has, and checks no shard, so that it answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.core.options import Option
from gaincurate.errors import InputError, read_error

_DEPTH = 3  # folders below the one that is listed


@configured()
def ls(
    folder: Annotated[
        Path, Option("Where to look, and three folders deep. Default: here.", metavar="FOLDER", argument=True)
    ] = Path("."),
    as_json: AsJson = False,
) -> None:
    """List scored sets, rollout sets and runs below a folder: kind, rows, model and state.

    Example: gaincurate ls
    """
    with output.reporting():
        try:
            if not folder.is_dir():
                raise InputError(f"{folder} is no folder.")
            next(folder.iterdir(), None)
        except OSError as error:
            raise read_error(folder, error) from error
        listed = [entry for path in _folders(folder, _DEPTH) if (entry := described(path))]
        if as_json:
            output.as_json(listed)
        elif not listed:
            output.text(f"{folder}: no scored set, rollout set or run here, down to {_DEPTH} folders below")
        else:
            keys = ("kind", "rows", "model", "state")
            rows = [[entry["folder"], *(_cell(entry[key]) for key in keys)] for entry in listed]
            output.table(rows, ["folder", *keys], left=("kind", "model", "state"))


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folder and those below it, but not what is in a set or a run; sorted by name."""
    try:
        is_one = (folder / "identity.json").exists() or (folder / "run.json").exists()
        paths = [] if is_one or not depth else sorted(folder.iterdir())
        inside = [path for path in paths if not path.is_symlink() and path.is_dir()]
    except OSError:  # another user's, or deleted meanwhile: nothing in it can be listed
        return
    yield folder
    for path in inside:
        if not path.name.startswith("."):
            yield from _folders(path, depth - 1)


def described(folder: Path) -> dict[str, Any] | None:
    """The facts of a folder that `ls` lists, or None for other folders."""
    facts: dict[str, Any] = {"folder": str(folder)}
    run, identity = _read(folder / "run.json"), _read(folder / "identity.json")
    if isinstance(run.get("config"), dict):
        from gaincurate.schedule.run import newest_round

        config, round_ = run["config"], newest_round(folder)
        states = (folder / "state.json", folder / "rounds" / f"{round_:05d}" / "state.json")
        state = f"round {round_} of {config.get('rounds')} is planned"
        if round_ < 0:
            state = "no round yet"
        elif any(_read(path).get("finished") for path in states):
            state = f"finished, {output.counted(round_ + 1, 'round')}"
        kind, rows = f"run, {config.get('strategy')}", run.get("kept", run.get("rows"))
        model = Path(str(config.get("model"))).name if config.get("model") else None
        return facts | {"kind": kind, "rows": rows, "model": model, "state": state}
    if "format" not in identity:
        return None
    manifest = _read(folder / "manifest.json")
    rollouts = identity.get("kind") == "rollouts"
    engine = identity.get("engine") if rollouts else identity
    model = engine.get("model") if isinstance(engine, dict) else None
    facts |= {
        "kind": "rollout set" if rollouts else "scored set",
        "rows": manifest.get("rollouts" if rollouts else "rows"),
        "model": model.get("name") if isinstance(model, dict) else model,
    }
    shards = sum(1 for _ in folder.glob("shard-*.arrow"))
    return facts | {"state": "finished" if manifest else f"not finished, {output.counted(shards, 'shard')}"}


def _read(path: Path) -> dict[str, Any]:
    from gaincurate.core.foreign import json_file

    try:
        value = json_file(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

"""`gaincurate example`: a prompt set with answers, a reward function and a trainer to try everything on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from gaincurate.cli import output
from gaincurate.cli.options import configured
from gaincurate.core.options import Option
from gaincurate.errors import InputError, storage_error

FILES = Path(__file__).with_name("example_files")
TRAIN = (
    "python train.py --data {data} --round {round} --model {checkpoint} --outcomes {outcomes} "
    "--output {output}"
)
_COMMANDS = (
    "gaincurate score prompts.jsonl --model demo --out scored",
    "gaincurate report scored -o report.html",
    "gaincurate schedule start scored --run run --strategy posterior --budget 32 --rounds 3",
    f"gaincurate schedule run run -- {TRAIN}",
)


@configured()
def example(
    folder: Annotated[
        Path, Option("Where to write it. Default: here.", metavar="FOLDER", argument=True)
    ] = Path("."),
) -> None:
    """Write a small prompt set with answers, a reward function and a TRL script to try everything on.

    prompts.jsonl has 240 questions of six tasks in up to three levels. reward.py judges completions. train.py
    trains one round with TRL, as `gaincurate schedule run` calls it. Files that are there with other content
    are not overwritten.

    Example: gaincurate example
    """
    with output.reporting():
        from gaincurate.core.files import write_atomic

        contents = {path.name: path.read_bytes() for path in sorted(FILES.glob("*.*"))}
        try:
            for name, content in contents.items():
                if (folder / name).exists() and (folder / name).read_bytes() != content:
                    raise InputError(
                        f"{folder / name} is there with other content: give another folder, such as "
                        "`gaincurate example demo`."
                    )
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(Path(error.filename or folder), error) from error
        for name, content in contents.items():
            write_atomic(folder / name, content)
        output.text(f"{folder / 'prompts.jsonl'}: 240 questions with answers, of six tasks")
        output.text(f"{folder / 'reward.py'}: a reward function, for TRL and for --verifier reward:correct")
        output.text(f"{folder / 'train.py'}: trains one round with TRL")
        output.text("next:")
        if folder != Path("."):
            output.text(f"  cd {shlex.quote(str(folder))}")
        for command in _COMMANDS:
            output.text(f"  {command}")

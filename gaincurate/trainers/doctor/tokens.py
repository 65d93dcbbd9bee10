"""Whether a trainer reads what was scored: takes a run, renders its first prompts, counts tokens.

Needs transformers and the model's tokenizer; says so in a line where one of them is not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.findings import Finding

_ROWS = 16


def compare_tokens(folder: Path, rows: int = _ROWS) -> tuple[Finding | None, str]:
    """Render the newest round's first prompts by the model's chat template, and count.

    Args:
        folder: of the run.
        rows: how many prompts.

    Returns:
        What is wrong, and a line that says what was compared or why nothing was.
    """
    run = Run(folder)
    model = run.config.model
    if run.config.bare:
        return (
            None,
            "token counts: not compared, because --without-system leaves out a part of what was scored",
        )
    if model is None or not Path(model).is_dir():
        return (
            None,
            f"token counts: not compared, because the model {model or ''} is no folder on this machine",
        )
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return None, "token counts: not compared, because transformers is not installed"
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        return (
            None,
            f"token counts: not compared, because {model} has no tokenizer ({' '.join(str(error).split())})",
        )
    round_ = run.newest()
    table = pq.read_table(run.data(round_), columns=["gc_id", "prompt"]).slice(0, rows)
    ids = table.column("gc_id").to_pylist()
    rows_of = run.scored.rows(ids)
    counts = rows_of.column("gc_prompt_tokens").to_pylist()
    scored = dict(zip(rows_of.column("gc_id").to_pylist(), counts, strict=True))
    for one, messages in zip(ids, table.column("prompt").to_pylist(), strict=True):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if count != scored[one]:
            return (
                Finding(
                    "tokens",
                    "wrong",
                    f"the prompt of {one} is {count} tokens by the chat template of {model}, but was scored "
                    f"as {scored[one]}: the trainer would read something else than was scored",
                    {},
                    "score the set again with this model's tokenizer, or train with the one that scored it",
                    "gc_prompt_tokens of the scored set",
                ),
                f"token counts: {one} differs",
            )
    return None, f"token counts: {len(ids)} prompts of round {round_} are as long as they were when scored"

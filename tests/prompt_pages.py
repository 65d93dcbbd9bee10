"""A scored set with every kind of column that a page of prompts shows, and hostile texts, and its page."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from column_sets import column_set, ids
from gaincurate.core.scored_set import ScoredSet
from gaincurate.report import explore
from gaincurate.report.build import observed_table
from sets import IDENTITY_OF_SETS

HOSTILE = "</script><script>document.title = 'ran'</script><img src=x onerror=\"document.title='ran'\"><!--\u2028\u202e'"
ROWS = 60
SOURCES = ["web's", 'the "book"', "a </option>"]


def make(folder: Path, rows: int = ROWS, copies: int = 0) -> Path:
    """The set; row 3 is hostile, row 5 has no NLL, and question k names k; the last ones are copies of row 3."""
    rng = np.random.default_rng(7)
    texts = [f"What is {row} plus {row}? " + "Think well. " * 30 for row in range(rows)]
    texts[3] = HOSTILE
    texts[rows - copies :] = [HOSTILE] * copies
    nll = rng.gamma(2.0, size=rows).astype(np.float32)
    nll[5] = np.nan
    flat = rng.normal(size=(rows, 6)) * [5.0, 3.0, 1.0, 1.0, 0.5, 0.1] + 4.0
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1).astype(np.float16)), 6)
    source = {
        "answer": pa.array([str(2 * row) if row != 3 else HOSTILE for row in range(rows)]),
        "source": pa.array([SOURCES[row % 3] if row != 7 else None for row in range(rows)]),
        "level": pa.array([row % 4 for row in range(rows)]),
    }
    facts = {**IDENTITY_OF_SETS["source"], "answer_column": "answer"}
    return column_set(
        folder,
        rng.integers(5, 80, rows),
        {"gc_angle": rng.normal(size=rows), "gc_nll": nll, "gc_embedding": embedding},
        source,
        questions=texts,
        identity={"source": facts},
    )


def rates(path: Path, rows: int = ROWS) -> Path:
    """Pass rates of eight rollouts for all but the last ten prompts."""
    lines = [{"gc_id": gc_id, "wins": k % 9, "losses": 8 - k % 9} for k, gc_id in enumerate(ids(rows)[:-10])]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def page(folder: Path, outcomes: Path | None = None) -> str:
    """The page of a set, with pass rates where they are given."""
    scored = ScoredSet(folder)
    table, observed = observed_table(scored, rollouts=[] if outcomes is None else [outcomes])
    return explore.to_html(scored, table, outcomes=[each.outcome for each in observed], report="report.html")


def data(text: str) -> Any:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def numbers(column: dict[str, Any]) -> np.ndarray:
    """A column of numbers as the script has it."""
    return np.frombuffer(base64.b64decode(column["values"]), f"<f{column['bits'] // 8}").astype(float)

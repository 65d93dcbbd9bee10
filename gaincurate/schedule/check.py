"""Whether options go with a set and with each other: takes a run's options, yields a sentence or nothing.

Everything that can be known before hours are spent. Writes nothing.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.difficulty.config import RolloutConfig, make_config
from gaincurate.difficulty.embeddings import maker
from gaincurate.difficulty.prompts import answer_column
from gaincurate.difficulty.verify import VerifierConfig
from gaincurate.errors import InputError
from gaincurate.files import reading
from gaincurate.schedule import base
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.dots import DotsOptions, budget_of
from gaincurate.schedule.noise import Ints
from gaincurate.schedule.rescore import OF_MODEL
from gaincurate.schema import EMBEDDING
from gaincurate.scored_set import ScoredSet

_EXAMPLE = '\'{"verifier": "math", "samples": 8}\''
NOT_IN_ROLLOUT = {"scored", "out", "model", "reference", "seed", "overwrite", "backoff"}
_SERVER, _LOCAL = ("httpx2", "tenacity"), ("torch", "transformers")


def check_options_of_a_run(
    config: ScheduleConfig,
    scored: ScoredSet,
    kind: type[base.Selector],
    by: str | None,
    options: base.Options,
) -> None:
    """See that a run may be opened.

    Args:
        config: the run's options.
        scored: the set.
        kind: the strategy.
        by: the column of the order.
        options: the strategy's own.

    Raises:
        InputError: an option does not go with the set or with another option.
    """
    _check_sizes(config, scored)
    _check_order(config, kind, by)
    model = config.model
    if (
        model is not None
        and model.startswith(("/", "./", "../", "~"))
        and not Path(model).expanduser().exists()
    ):
        raise InputError(f"--model {model}: there is no such folder.")
    if isinstance(options, DotsOptions):
        _check_dots(config, scored, options)


def check_draw(config: ScheduleConfig, ranks: Ints, count: int) -> None:
    """A user's own strategy may be wrong; a round that is must not be written.

    Raises:
        InputError: it is.
    """
    wrong = None
    if ranks.shape != (config.budget,):
        wrong = f"drew {ranks.shape} ranks for a budget of {config.budget}"
    elif len(np.unique(ranks)) < len(ranks):
        wrong = "drew a rank twice"
    elif ranks.min() < 0 or ranks.max() >= count:
        wrong = f"drew a rank outside 0 to {count - 1}"
    if wrong:
        raise InputError(f"strategy {config.strategy} {wrong}.")


def _check_sizes(config: ScheduleConfig, scored: ScoredSet) -> None:
    rows, align = len(scored), config.align_to
    if config.budget > rows:
        raise InputError(
            f"--budget {config.budget:,} is over the {rows:,} rows of {config.scored}; a round's prompts are "
            "distinct."
        )
    if config.budget % align:
        near = [
            n for n in (config.budget // align * align, -(-config.budget // align) * align) if 0 < n <= rows
        ]
        raise InputError(
            f"--budget {config.budget:,} is no multiple of --align-to {align:,}; the nearest are "
            f"{' and '.join(f'{n:,}' for n in near) or 'none that the set has rows for'}."
        )
    if not config.reward_low < config.reward_high or not math.isfinite(
        config.reward_high - config.reward_low
    ):
        raise InputError(
            f"--reward-range {config.reward_low:g},{config.reward_high:g}: the first must be "
            "less than the second."
        )


def _check_order(config: ScheduleConfig, kind: type[base.Selector], by: str | None) -> None:
    if config.ascending is not None and by is None:
        raise InputError(
            f"--ascending and --descending are for an order, and strategy {config.strategy} has none."
        )
    if config.by is not None and kind.ordering == "none":
        raise InputError(f"--by {config.by}: strategy {config.strategy} has no order; leave --by out.")
    what = config.rescore.what
    if what == "off" and config.rescore.options:
        raise InputError(
            f"--scoring {shlex.join(config.rescore.options)!r}: --rescore off scores nothing anew; leave "
            "--scoring out, or give --rescore round, window or full."
        )
    if what in ("window", "full") and not (kind.ordering == "any" and by in OF_MODEL):
        if kind.ordering != "any":
            why = f"strategy {config.strategy} has no order that may change"
        else:
            why = f"strategy {config.strategy} goes by {by}, which no checkpoint changes"
        raise InputError(
            f"--rescore {what} needs an order by a score of the model ({', '.join(OF_MODEL)}), and {why}. "
            "Use --rescore round or off."
        )
    if what == "window" and not hasattr(kind, "reach"):
        raise InputError(
            f"--rescore window: strategy {config.strategy} does not say which ranks it can reach; use full."
        )


def _check_dots(config: ScheduleConfig, scored: ScoredSet, options: DotsOptions) -> None:
    budget, rows = budget_of(options, config.budget), len(scored)
    if options.references + budget > rows:
        raise InputError(
            f"--references {options.references:,} and {budget:,} prompts to draw are "
            f"{options.references + budget:,}, and {scored.folder} has {rows:,}: references are not drawn "
            "in their own round. Take fewer references."
        )
    if importlib.util.find_spec("torch") is None:
        raise InputError("strategy dots predicts with torch: `pip install 'gaincurate[score]'`.")
    if options.group_column is not None:
        scored.column(options.group_column)
    elif EMBEDDING not in scored.schema.names:
        raise InputError(
            f"{scored.folder} has no {EMBEDDING}, from which strategy dots predicts: score it with "
            "`--signals angle,embedding`, or predict by a group's mean with --group-column."
        )
    if options.adapter is not None:
        _check_adapter(Path(options.adapter), scored)
    if options.rollout is not None:
        _check_rollout(config, scored, options, options.rollout)


def _check_adapter(folder: Path, scored: ScoredSet) -> None:
    """See that it is one and is for these embeddings; its weights are checked when they are used."""
    path = folder / "config.json"
    if not path.exists():
        raise InputError(
            f"--adapter {folder} is no fitted predictor: it has no config.json. `gaincurate difficulty fit` "
            "makes one."
        )
    with reading(path):
        text = path.read_bytes()
    try:
        embedding: dict[str, Any] = json.loads(text)["embedding"]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"--adapter {folder} is damaged: its config.json cannot be read; fit it again."
        ) from error
    if embedding != maker(scored):
        raise InputError(
            f"--adapter {folder} was fitted on embeddings of {_named(embedding)}, and {scored.folder} has "
            f"those of {_named(maker(scored))}; score with that model, or fit again."
        )


def _named(embedding: dict[str, Any]) -> str:
    weights = str(embedding.get("weights"))[:8]
    return f"{embedding.get('model')} ({embedding.get('width')} wide, weights {weights})"


def _check_rollout(
    config: ScheduleConfig, scored: ScoredSet, options: DotsOptions, given: dict[str, Any]
) -> None:
    """See that `gaincurate difficulty rollout` will take the options."""
    fields = dict.fromkeys([*RolloutConfig.__annotations__, *RolloutConfig.model_fields])  # its own first
    known = [name for name in fields if name not in NOT_IN_ROLLOUT]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"--rollout has no option {unknown[0]!r}; it takes: {', '.join(known)}.")
    if "verifier" not in given:
        raise InputError(f"--rollout needs a verifier: {_EXAMPLE}.")
    model = None if "server" in given else config.model or ""
    made = make_config(
        scored=config.scored, out=config.run, model=model, reference=options.references, **given
    )
    if model == "":
        raise InputError(
            f"--rollout generates with the model that training begins with, and which one scored "
            f"{scored.folder} is not known; give --model, or a server in --rollout."
        )
    verifier = VerifierConfig(made.verifier, gold_as=made.gold_as)
    answer_column(scored, made.answer_column, needed=not verifier.own)
    wanted = [*(_SERVER if made.server else _LOCAL), *(["math_verify"] if made.verifier == "math" else [])]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--rollout needs {' and '.join(missing)}: `pip install 'gaincurate[score,difficulty]'`."
        )
    if options.target == "variance" and made.samples < 2:
        raise InputError("--target variance needs two samples of a reference or more; --rollout has 1.")

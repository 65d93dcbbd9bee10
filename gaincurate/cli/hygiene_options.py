"""The checks that the options of `hygiene` and of `export --drop` ask for.

An option that would do nothing is refused, because a user who gave it expects a check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.hygiene.config import HygieneConfig
    from gaincurate.hygiene.options import HygieneOptions


def hygiene_options(checks: str | None, config: HygieneConfig) -> HygieneOptions:
    """The options as one value; `checks` are names with commas between them, None is an option not given.

    Raises:
        InputError: an unknown check, one without what it needs, or an option without what it goes with.
    """
    from gaincurate.difficulty.verifier import VerifierConfig
    from gaincurate.hygiene.duplicates import THRESHOLD
    from gaincurate.hygiene.options import NGRAM, HygieneOptions

    if config.gold_as is not None and config.verifier is None:
        raise InputError(f"--gold-as {config.gold_as!r} goes with --verifier NAME.")
    for option in ("eval-column", "ngram", "overlap"):
        value = getattr(config, option.replace("-", "_"))
        if value is not None and not config.evals:
            raise InputError(f"--{option} {value} goes with --eval FILE.")
    near = config.near
    named = None if checks is None else tuple(name.strip() for name in checks.split(",") if name.strip())
    options = HygieneOptions(
        named,
        THRESHOLD if near is None else near,
        config.max_prompt_tokens,
        VerifierConfig(config.verifier, gold_as=config.gold_as) if config.verifier is not None else None,
        config.answer_column,
        tuple(config.evals),
        config.eval_column,
        NGRAM if config.ngram is None else config.ngram,
        config.overlap or 0.0,
    )
    if near is not None and "near-duplicates" not in options.chosen():
        raise InputError("--near is for the check near-duplicates: name that too, or leave --near out.")
    return options

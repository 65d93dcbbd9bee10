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
    from gaincurate.hygiene.duplicates import THRESHOLD, Likeness
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
        Likeness(THRESHOLD if near is None else near, config.any_numbers),
        config.max_prompt_tokens,
        VerifierConfig(config.verifier, gold_as=config.gold_as) if config.verifier is not None else None,
        config.answer_column,
        tuple(config.evals),
        config.eval_column,
        NGRAM if config.ngram is None else config.ngram,
        config.overlap or 0.0,
    )
    near_option = "--near" if near is not None else "--near-any-numbers" if config.any_numbers else None
    if near_option is not None and "near-duplicates" in options.skipped():
        raise InputError(f"{near_option} needs rensa: `pip install 'gaincurate[hygiene]'`.")
    if near_option is not None and "near-duplicates" not in options.chosen():
        raise InputError(
            f"{near_option} is for the check near-duplicates: name that too, or leave {near_option} out."
        )
    return options

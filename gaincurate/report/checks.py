"""Hygiene in a report: takes a scored set and what to look for, yields each check's finding, at a fixed size.

Knows nothing of how a check is made.
"""

from __future__ import annotations

from gaincurate.hygiene.examine import finding, search
from gaincurate.hygiene.findings import Finding
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.report.sections import Check, Example
from gaincurate.scored_set import ScoredSet

EXAMPLES, LISTED = 5, 20
"""Rows that are shown of a check, and of broken gold answers, which somebody has to mend one by one."""
DUPLICATES = HygieneOptions(("duplicates",))


def hygiene_checks(scored: ScoredSet, options: HygieneOptions = DUPLICATES) -> list[Check]:
    """What every check found, in their order.

    Raises:
        InputError, SourceError: see `examine`.
    """
    return [
        _check(finding(scored, one, LISTED if one.check == "broken-gold" else EXAMPLES))
        for one in search(scored, options)
    ]


def _check(found: Finding) -> Check:
    examples = [Example(one["gc_id"], one["text"], one["with"]) for one in found.examples]
    return Check(found.check, found.rows, found.share, examples, found.note)

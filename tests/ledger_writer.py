"""A program that appends rollout groups to a ledger for ever, and says what was acknowledged; tests kill it.

    python ledger_writer.py FOLDER FIRST [COUNT]

Appends group `p{n}` of step n, n = FIRST, FIRST + 1, ..., two at a time, and prints n behind each append.
"""

from __future__ import annotations

import itertools
import sys

from gaincurate.replay.ledger import Ledger
from rollouts import group


def main() -> None:
    """Append until killed, or COUNT times."""
    folder, first = sys.argv[1], int(sys.argv[2])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else None
    with Ledger(folder) as ledger:
        print("open", flush=True)
        for n in itertools.islice(itertools.count(first, 2), count):
            ledger.append([group(f"p{n}", n), group(f"p{n + 1}", n + 1)])
            print(n + 1, flush=True)


if __name__ == "__main__":
    main()

"""Faults of the rows of a set: duplicates, length, broken answers, questions of evaluation sets."""

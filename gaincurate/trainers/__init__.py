"""The link between a run and its trainers: a folder per trainer, and what all of them share.

A trainer is imported only where it is used, so its settings can be checked where it is not installed.
"""

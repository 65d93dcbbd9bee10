"""Columns that are computed from the columns of a finished set."""

"""Reads a trainer's settings and finds what would break a schedule, one module of rules for each trainer."""

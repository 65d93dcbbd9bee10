"""Rollouts that are trained on more than once: a buffer that stores groups of them and draws from it."""

"""Rollouts that are trained on more than once: a ledger that keeps them, a buffer that draws from them."""

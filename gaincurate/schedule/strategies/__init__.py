"""Strategies: which prompts the next round has. Each is one class in one file."""

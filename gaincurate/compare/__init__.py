"""Strategies trained side by side at equal cost: arms, seeds, what they cost, and what differs."""

"""What meets a trainer: what it reads, what it logs, what in its settings would break a schedule."""

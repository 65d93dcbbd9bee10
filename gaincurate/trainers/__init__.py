"""The link between a run and its trainers: a folder per trainer, imported where it is used alone."""

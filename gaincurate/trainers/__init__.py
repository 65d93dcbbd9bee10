"""The link between a run and its trainers: a folder per trainer, imported only where it is used."""

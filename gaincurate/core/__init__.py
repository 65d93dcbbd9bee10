"""What every package stands on: errors, files, locks, artifacts, draws, processes."""

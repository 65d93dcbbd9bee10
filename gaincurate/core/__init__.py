"""The foundation of every package: errors, files, locks, artifacts, draws, processes."""

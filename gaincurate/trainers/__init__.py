"""What stands between a run and the trainers that follow it; each imports its trainer inside itself."""

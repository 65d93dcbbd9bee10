"""What is known of each trainer: the files it reads, the logs it writes. Above schedule, below cli."""

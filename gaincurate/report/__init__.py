"""What a score is worth: takes a scored set and what is known of it, yields one document of numbers."""

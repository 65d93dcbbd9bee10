"""What the scores of a set are worth, as one document of numbers, a page and a column without length."""

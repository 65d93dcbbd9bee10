"""The value of a set's scores, as one document of numbers, a page, and columns without length."""

"""One reader per kind of data file, and the one stream that a run reads."""

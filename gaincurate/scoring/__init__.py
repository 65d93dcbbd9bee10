"""Scoring, in the order of the data: read, columns, ids, segment, pack, model, prefill, angle, pipeline."""

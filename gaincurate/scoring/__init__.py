"""Scoring: a hidden state per token of each prompt, and the numbers that are made of them.

`pipeline` runs it all: `plan` settles a run before weights are loaded, and `worker` scores its shards. The
data go through `readers`, `ids`, `segment`, `packed_prefill` (or `prefill`) and `signals`.
"""

"""Scoring: a hidden state per token of each prompt, and the numbers that are made of them.

`pipeline` runs it all. The data go through `readers`, `ids`, `segment`, `batching`, `packed_prefill` (or
`prefill`), `signals` and `worker`, in this order.
"""

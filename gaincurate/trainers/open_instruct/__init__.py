"""Facts about open-instruct, which is trained in segments and has no live adapter."""

"""Facts about ROLL, which is trained in segments and has no live adapter."""

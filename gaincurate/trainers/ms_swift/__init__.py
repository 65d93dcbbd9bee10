"""Facts about ms-swift, which is trained in segments and has no live adapter."""

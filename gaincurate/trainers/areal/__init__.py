"""Facts about AReaL, which is trained in segments and has no live adapter."""

"""Facts about SkyRL, which is trained in segments and has no live adapter."""

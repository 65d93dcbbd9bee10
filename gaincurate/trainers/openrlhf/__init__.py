"""Facts about OpenRLHF, which is trained in segments and has no live adapter."""

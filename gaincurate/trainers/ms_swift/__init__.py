"""ms-swift: what is known of it; it is trained in segments, with no live adapter."""

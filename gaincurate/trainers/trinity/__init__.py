"""Trinity-RFT: the layout and settings that are known of it; it has no live adapter."""

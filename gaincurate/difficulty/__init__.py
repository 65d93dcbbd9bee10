"""How hard each prompt is for a model: rollouts, their verification, pass rates (DOTS, arXiv 2506.05316)."""

"""How hard each prompt is for the present policy: measured on some prompts by rollouts, predicted for all."""

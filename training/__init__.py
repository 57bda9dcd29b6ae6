"""Guards are trained here: aligned prompts to trajectories to heads."""

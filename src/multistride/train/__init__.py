"""Training: layouts, objective, loop, checkpoints."""

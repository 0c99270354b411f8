"""From a loss to a trained folder: step, loop, checkpoints, and what each method learns from."""

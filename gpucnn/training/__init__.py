"""Training runs: epochs, what diverged, and checkpoints."""

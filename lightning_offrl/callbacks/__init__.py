"""Lightning callbacks: target networks, evaluation in an environment, checkpoints, export, progress."""

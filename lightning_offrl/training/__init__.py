"""How an algorithm trains: the update loop, optimizers, random streams, checkpoints, target networks."""

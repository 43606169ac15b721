"""Conservative Q-learning and its variants, one page each."""

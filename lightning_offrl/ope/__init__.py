"""Off-policy evaluation: what a policy would earn, from logged episodes alone."""

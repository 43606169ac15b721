"""Direct methods: estimates of a policy's value from fitted values, density ratios or models of the environment."""

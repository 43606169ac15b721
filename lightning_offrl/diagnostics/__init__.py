"""Diagnoses of how far a policy has moved from the data and whether its values can be believed, each with a remedy."""

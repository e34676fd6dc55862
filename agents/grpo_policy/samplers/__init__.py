"""Ways to sample from a policy."""

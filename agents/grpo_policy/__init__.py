"""What every agent shares: the policy, its sampler, rollouts, scoring and batches."""

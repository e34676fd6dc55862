"""GRPO for causal language models: policy, sampler, rollout, losses, update.

Reading order: policy.py, sampler.py, rollout.py, advantages.py, losses.py, agent.py.
"""

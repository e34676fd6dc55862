"""GRPO for causal language models: policy, sampler, rollout, losses, update.

Reading order: grpo_policy/policy.py, grpo_policy/samplers/torch.py, grpo_policy/rollout.py,
advantages.py, losses/, agent.py.
"""

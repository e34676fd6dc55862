"""Supervised fine-tuning on an environment's demonstrations: a warm start for GRPO.

Reading order: config.py, agent.py; the demonstrations are `grpo_policy.imitation`.
"""

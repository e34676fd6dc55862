"""PPO for causal language models, with a critic instead of the group's baseline.

Reading order: config.py, gae.py, value_loss.py, critic.py, agent.py.
"""

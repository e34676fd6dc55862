"""PPO for causal language models: a critic in the place of the group's baseline.

Reading order: config.py, gae.py, value_loss.py, critic.py, agent.py.
"""

"""Hydra options that nobody gets to see."""

"""Hydra options."""

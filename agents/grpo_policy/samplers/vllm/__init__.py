"""Sampling in vLLM servers: separate processes, on this machine or others."""

"""Sampling in servers of vLLM, in processes and perhaps on machines of their own."""

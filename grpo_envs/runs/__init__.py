"""A run on disk: its folder, its rows and metrics, its checkpoints."""

"""Modules for the judge's process, sent as compiled code, see `testing`."""

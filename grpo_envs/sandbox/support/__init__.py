"""Modules for the judge's process, which goes there as compiled code: see `testing`."""

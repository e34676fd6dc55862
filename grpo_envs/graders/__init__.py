"""Pure functions from text to verdicts. No state, no environment, no exception on any input."""

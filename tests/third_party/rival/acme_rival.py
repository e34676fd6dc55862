"""Claims a name of another package; nobody gets to import this."""

raise AssertionError("a name that two claim must not be loaded")

"""Cannot be imported here."""

raise OSError("no licence file")

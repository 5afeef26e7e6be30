"""Tasks: one verb of the suite a file."""

"""Callbacks of the Trainer: checkpoints, provenance, averages, pictures."""

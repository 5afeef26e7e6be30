"""Grids: what their points are, who runs them, what became of each, and Slurm's part in it."""

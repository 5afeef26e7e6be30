"""Grids on the search path of the configuration."""

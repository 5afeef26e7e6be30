"""Data: DataModules, windows, loaders and the cache of simulated data."""

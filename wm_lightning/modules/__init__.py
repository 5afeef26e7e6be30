"""LightningModules: run networks, call an objective, log."""

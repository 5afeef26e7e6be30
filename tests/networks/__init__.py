"""Properties of the networks."""

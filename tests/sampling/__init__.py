"""Properties of samplers, guidance and rollouts."""

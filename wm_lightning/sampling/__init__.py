"""Samplers, guidance, and the one rollout loop."""

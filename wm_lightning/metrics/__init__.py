"""Measures of generated video: by horizon, and as a distribution."""

"""Judges of generated videos: what they are asked, how they are reached, and how several are heard together."""

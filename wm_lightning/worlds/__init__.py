"""Simulators that write the on-disk formats and judge pixels."""

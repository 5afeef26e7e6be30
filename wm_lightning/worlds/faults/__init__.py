"""Faults put into copies of data sets on purpose."""

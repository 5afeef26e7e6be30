"""Adapters: (state_dict) -> (state_dict, config), one foreign checkpoint format per file."""

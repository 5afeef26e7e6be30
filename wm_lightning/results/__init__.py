"""What a run leaves behind: results, tables, pictures and curves."""

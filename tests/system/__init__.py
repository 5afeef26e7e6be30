"""The suite as a user meets it: whole commands, killed, misfed and chained."""

"""Playing in a world model: controls, panels, recordings, a page on loopback, a terminal."""

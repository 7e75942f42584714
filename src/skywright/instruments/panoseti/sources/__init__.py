"""Sources of frames: simulated, a growing run directory, replay."""

"""Sources of pulses: the simulated instrument, a bsread stream, a file."""

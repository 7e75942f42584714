"""Where pulses come from: the simulated instrument, a bsread stream, a file."""

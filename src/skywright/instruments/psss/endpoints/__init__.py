"""The spectrometer as the clients of the old service know it: REST, bsread, metrics."""

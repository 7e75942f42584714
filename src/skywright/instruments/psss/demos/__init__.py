"""The demo of the spectrometer."""

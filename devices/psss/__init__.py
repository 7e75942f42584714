"""Devices of the single-shot spectrometer."""

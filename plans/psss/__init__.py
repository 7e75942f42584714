"""Plans of the single-shot spectrometer."""

"""IOC of the single-shot spectrometer."""

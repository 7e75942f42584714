"""The page of the spectrometer."""

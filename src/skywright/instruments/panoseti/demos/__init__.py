"""Demo of the telescopes."""

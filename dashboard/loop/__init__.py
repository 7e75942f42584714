"""The page of the sample loop."""

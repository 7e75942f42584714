"""The page of the shots: regions drawn on the mean image, curves, counts."""

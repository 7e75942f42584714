"""The demos of the camera and of loop centering."""

"""Sample loop on a goniometer, seen by a video camera: sources, owner, detection, fits."""

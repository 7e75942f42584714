"""IOCs of the loop instrument: camera and goniometer."""

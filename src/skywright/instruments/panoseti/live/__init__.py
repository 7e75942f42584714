"""Live images: frames from the data acquisition, the newest frame of each kind, gRPC out."""

"""Live images: ways in from the data acquisition, the newest frame of each kind, gRPC out."""

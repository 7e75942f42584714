"""The u-blox ZED-F9T timing receiver: configuration, messages, a simulated one, gRPC."""

"""A simulated telescope array at the level of packets, with its truth."""

"""Devices of the PANOSETI modules."""

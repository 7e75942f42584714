"""Protocols of other systems, bytes to objects and back."""

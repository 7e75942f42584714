"""Faces for clients of other systems."""

"""Demos of the shots."""

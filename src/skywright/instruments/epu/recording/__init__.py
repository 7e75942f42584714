"""Recordings of a directory: everything that happens in it, to be played again elsewhere."""

"""`skywright loop ...`."""

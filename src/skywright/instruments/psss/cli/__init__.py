"""`skywright psss ...`, and the command line of the old service."""

"""The IOC of a directory that EPU writes."""

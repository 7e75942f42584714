"""IOC of shots joined by tag."""

"""IOC of the PANOSETI modules."""

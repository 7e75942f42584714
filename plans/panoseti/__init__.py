"""Plans of the PANOSETI modules."""

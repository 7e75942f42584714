"""Plans of the loop instrument."""

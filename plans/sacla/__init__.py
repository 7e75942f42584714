"""Plans that take shots."""

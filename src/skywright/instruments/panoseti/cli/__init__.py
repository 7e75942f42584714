"""Commands: ``skywright panoseti ...``."""

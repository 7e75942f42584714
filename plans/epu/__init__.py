"""Plans over a watched EPU directory."""

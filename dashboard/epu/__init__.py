"""The page of a watched EPU directory."""

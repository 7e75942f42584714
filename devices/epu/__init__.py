"""The device of a watched EPU directory."""

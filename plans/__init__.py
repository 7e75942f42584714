"""bluesky plans over devices."""

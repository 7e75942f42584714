"""The demo of EPU."""

"""Shots of a free-electron laser as a device."""

"""Devices of the loop instrument: camera, goniometer, rotation."""

"""Follows a directory that EPU writes, and records each entity in the entity database.

One source, `owner.TreeSource` with its `Watcher`, for the command line, the agent and the IOC.
"""

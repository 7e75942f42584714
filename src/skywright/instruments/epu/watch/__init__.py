"""Follows a directory that EPU writes, and records each entity in the entity database.

One owner, `Watcher`, for the command line, the agent and the IOC.
"""

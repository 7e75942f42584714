"""The HTTP API of EPU sessions, compatible with that of smartem-decisions."""

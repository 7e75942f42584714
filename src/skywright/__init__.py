"""Sources, owners, analysis and storage of five photon instruments, free of EPICS."""

from importlib.metadata import version

from skywright.rooms import name_rooms

__version__ = version("skywright")

name_rooms()

"""Sources, owners, analysis and storage of five photon instruments, free of EPICS."""

from importlib.metadata import version

__version__ = version("skywright")

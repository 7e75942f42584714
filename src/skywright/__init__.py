"""Sources, owners, analysis and storage of five photon instruments, free of EPICS."""

from importlib.metadata import version

from skywright.kernel_cache import provide_kernel_cache
from skywright.rooms import name_rooms

__version__ = version("skywright")

name_rooms()
provide_kernel_cache()

"""Find the running beamline; take the store's session lock; set EPICS_* before anybody reads it."""

import warnings

from skywright.config import load_settings
from skywright.processes import locks
from skywright.processes import stack as runtime

settings = load_settings()
stack = runtime.attach(settings.directory)
locks.hold_lock(settings.directory / runtime.SESSION_LOCK, "session")
# pyepics says on stderr what ophyd raises as TimeoutError besides.
warnings.filterwarnings("ignore", r"ca\.get\(", UserWarning)

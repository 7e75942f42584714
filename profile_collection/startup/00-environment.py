"""Find the running beamline; take the store's session lock; set EPICS_* before anybody reads it."""

import warnings

from skywright.config import load_settings
from skywright.processes import locks
from skywright.processes.stack import SESSION_LOCK, attach

settings = load_settings()
stack = attach(settings.directory)
locks.hold_lock(settings.directory / SESSION_LOCK, "session")
# pyepics says on stderr what ophyd raises as TimeoutError besides.
warnings.filterwarnings("ignore", r"ca\.get\(", UserWarning)

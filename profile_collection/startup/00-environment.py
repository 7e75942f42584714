"""Find the running beamline; take the store's session lock; set EPICS_* before anybody reads it."""

from skywright.config import load_settings
from skywright.processes import locks
from skywright.processes import stack as runtime

settings = load_settings()
stack = runtime.attach(settings.directory)
locks.hold_lock(settings.directory / runtime.SESSION_LOCK, "session")

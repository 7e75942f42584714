"""Where numba keeps the compiled kernels of this process."""

import os
from contextlib import suppress
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def provide_kernel_cache() -> None:
    """Let numba use a temporary directory if this user can write to none of its own places.

    These are the package and the user's cache directory. A service user may have neither, and numba
    then refuses to import a kernel. The temporary directory is of this process and its children, so
    kernels are compiled after each start; a directory in ``NUMBA_CACHE_DIR`` keeps them.
    """
    if os.environ.get(VARIABLE) or os.access(Path(__file__).parent, os.W_OK):
        return
    with suppress(OSError, RuntimeError):  # there is no home, or it may not be entered
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        cache = home / "numba"
        present = next(each for each in (cache, *cache.parents) if each.exists())
        if os.access(present, os.W_OK | os.X_OK):
            return
    from skywright.processes.scratch import make_scratch

    with suppress(OSError):  # nothing can be written here: commands without kernels work
        os.environ[VARIABLE] = str(make_scratch("kernels"))

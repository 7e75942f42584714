"""Whether the data acquisition takes data now."""

import time
from glob import iglob
from pathlib import Path

import psutil

PROCESS_NAME = "hashpipe"
GROWN_WITHIN_S = 10.0
CLOCK_AHEAD_S = 60.0
"""The clock of a file server may be this far ahead; files with later times were dated wrongly."""
LAYOUTS = ("*.pff", "*/*.pff", "*/*/*.pff")
"""Where files are below a directory: that of a run, of a head node, of a node."""


def is_active(data_dir: Path) -> bool:
    """Return whether a run is active: Hashpipe runs here, or a file has grown in the last 10 s."""
    return hashpipe_runs() or grew_recently(data_dir)


def hashpipe_runs() -> bool:
    """Return whether a process of this machine is named exactly ``hashpipe``."""
    return any(
        process.info["name"] == PROCESS_NAME for process in psutil.process_iter(attrs=["name"])
    )


def grew_recently(data_dir: Path) -> bool:
    """Return whether a PFF file with content below `data_dir` changed in the last 10 s."""
    for pattern in LAYOUTS:
        # Path.glob fails when a directory is removed meanwhile.
        for name in iglob(pattern, root_dir=data_dir):  # noqa: PTH207
            try:
                state = (data_dir / name).stat()
            except OSError:
                continue
            age_s = time.time() - state.st_mtime
            if state.st_size and -CLOCK_AHEAD_S <= age_s < GROWN_WITHIN_S:
                return True
    return False

"""Whether the data acquisition takes data now."""

import time
from pathlib import Path

import psutil

PROCESS_NAME = "hashpipe"
GROWN_WITHIN_S = 10.0


def is_active(data_dir: Path) -> bool:
    """Return whether a run is active: Hashpipe runs here, or a file has grown in the last 10 s."""
    return hashpipe_runs() or grew_recently(data_dir)


def hashpipe_runs() -> bool:
    """Return whether a process of this machine is named exactly ``hashpipe``."""
    return any(
        process.info["name"] == PROCESS_NAME for process in psutil.process_iter(attrs=["name"])
    )


def grew_recently(data_dir: Path, within_s: float = GROWN_WITHIN_S) -> bool:
    """Return whether a PFF file with content below `data_dir` changed in the last `within_s`."""
    since = time.time() - within_s
    for path in data_dir.rglob("*.pff"):
        try:
            state = path.stat()
        except OSError:
            continue
        if state.st_size and state.st_mtime >= since:
            return True
    return False

"""Where the log of a process goes: stderr, and a file that is renamed when it is full."""

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from skywright.errors import ConfigError
from skywright.rooms import PACKAGES

LOG_LEVEL = "SKYWRIGHT_LOG_LEVEL"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FILE_BYTES = 10_000_000
"""Size at which a new log file begins, bytes."""
FULL_FILES = 5
"""Number of full log files to keep."""


def log_to_stderr(verbosity: int = 0) -> None:
    """Send the log to stderr.

    Parameters
    ----------
    verbosity
        0 shows errors, 1 (``-v``) information, 2 (``-vv``) everything. The level named by
        ``SKYWRIGHT_LOG_LEVEL`` is used if `verbosity` is 0.
    """
    level = (logging.ERROR, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    if verbosity == 0:
        level = named_level(level)
    logging.basicConfig(stream=sys.stderr, format=LOG_FORMAT)
    logging.getLogger().setLevel(max(level, logging.WARNING))  # other libraries: at least WARNING
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level)


def named_level(default: int) -> int:
    """Return the level that ``SKYWRIGHT_LOG_LEVEL`` names, `default` if it names none."""
    return logging.getLevelNamesMapping().get(os.environ.get(LOG_LEVEL, "").upper(), default)


def log_to_file(path: Path) -> None:
    """Send the log to a file too; a full file is renamed ``.1`` and a new one begins.

    The file gets our warnings also where stderr shows errors only.

    Parameters
    ----------
    path
        Path of the log file; its directory is created.

    Raises
    ------
    ConfigError
        If the directory or file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=FULL_FILES)
    except OSError as error:
        raise ConfigError(f"log file {path}: cannot be written ({error.strerror})") from error
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    root = logging.getLogger()
    for ours in map(logging.getLogger, PACKAGES):
        level = ours.getEffectiveLevel()
        if level > logging.WARNING:
            for each in root.handlers:
                if getattr(each, "stream", None) is sys.stderr:
                    each.setLevel(level)
            ours.setLevel(logging.WARNING)
    root.addHandler(handler)

"""Logs of the services: text for people, JSON or GELF for a central log server."""

import json
import logging
import os
import socket
import sys
import traceback
from typing import Any

from skywright.errors import ConfigError
from skywright.processes.logs import LOG_LEVEL, log_to_stderr

OLD_LEVEL = "SMARTEM_LOG_LEVEL"
"""Variable of smartem-decisions; read where ours is not set."""

FORMAT = "SKYWRIGHT_LOG_FORMAT"
"""Variable that names the format: ``text`` (default), ``json`` or ``gelf``."""

_GELF_LEVELS = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}
"""Levels of syslog, which GELF uses."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message and, if any, the exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        entry: dict[str, Any] = {
            "timestamp": record.created,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(entry)


class GelfFormatter(logging.Formatter):
    """One GELF 1.1 object a line, https://go2docs.graylog.org/current/getting_in_log_data/gelf.html."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        message = record.getMessage()
        entry: dict[str, Any] = {
            "version": "1.1",
            "host": socket.gethostname(),
            "short_message": message.splitlines()[0] if message else "-",
            "timestamp": record.created,
            "level": _GELF_LEVELS.get(record.levelname, 6),
            "_logger": record.name,
        }
        if record.exc_info:
            trace = "".join(traceback.format_exception(*record.exc_info))
            entry["full_message"] = f"{message}\n{trace}"
        return json.dumps(entry)


def log_service(verbosity: int) -> None:
    """Send the log to stderr in the format that the environment names.

    Parameters
    ----------
    verbosity
        0 shows errors, 1 information, 2 everything. With 0, ``SKYWRIGHT_LOG_LEVEL`` holds, and
        where that is not set, ``SMARTEM_LOG_LEVEL``.

    Raises
    ------
    ConfigError
        ``SKYWRIGHT_LOG_FORMAT`` names no format.
    """
    if not os.environ.get(LOG_LEVEL) and os.environ.get(OLD_LEVEL):
        os.environ[LOG_LEVEL] = os.environ[OLD_LEVEL]
    log_to_stderr(verbosity)
    if verbosity < 2:
        # A broker that is away is one line of ours, not a line of the library at each try.
        logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    name = os.environ.get(FORMAT, "text")
    formatters = {"text": None, "json": JsonFormatter, "gelf": GelfFormatter}
    if name not in formatters:
        raise ConfigError(f"{FORMAT}={name}: expected text, json or gelf")
    formatter = formatters[name]
    if formatter is not None:
        for handler in logging.getLogger().handlers:
            if getattr(handler, "stream", None) is sys.stderr:
                handler.setFormatter(formatter())

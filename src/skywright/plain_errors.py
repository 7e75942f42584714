"""Errors that skywright raises on purpose say what to do: people read a line, no traceback."""

import logging
from typing import Any

from skywright.errors import SkywrightError

ENGINE_LOG = "bluesky"


class WithoutTraceback(logging.Filter):
    """Turns a log record of a `SkywrightError` into one line; others pass as they are."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, SkywrightError):
            record.msg = f"{record.getMessage()}: {type(error).__name__}: {error}"
            record.args, record.exc_info = (), None
        return True


def shorten_engine_log() -> None:
    """Let the RunEngine tell of a plan that refused in one line; safe to call again."""
    logger = logging.getLogger(ENGINE_LOG)
    if not any(isinstance(each, WithoutTraceback) for each in logger.filters):
        logger.addFilter(WithoutTraceback())


def shorten_tracebacks(shell: Any) -> None:
    """Let IPython show only the error itself; ``%tb`` shows the traceback.

    Parameters
    ----------
    shell
        IPython's ``InteractiveShell``.
    """

    def show(shell: Any, kind: type, error: BaseException, trace: Any, **_: Any) -> None:
        shell.showtraceback((kind, error, trace), exception_only=True)

    shell.set_custom_exc((SkywrightError,), show)

"""Errors that skywright raises on purpose say what to do: people read a line, no traceback.

These are its own kinds of errors, and the `ValueError` and `TypeError` by which a plan or device
refuses an argument.
"""

import logging
from typing import Any

from skywright.errors import SkywrightError

ENGINE_LOG = "bluesky"
OURS = ("skywright", "plans", "devices")


def is_refusal(error: BaseException) -> bool:
    """Say whether an error tells a person what to do, so that a traceback would only hide that."""
    if isinstance(error, SkywrightError):
        return True
    return isinstance(error, (TypeError, ValueError)) and _raised_in(error) in OURS


def _raised_in(error: BaseException) -> str:
    """Return the top package of the code that has raised an error; "" if unknown."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return name.partition(".")[0]


class WithoutTraceback(logging.Filter):
    """Turns a log record of a refusal into one line; others pass as they are."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and is_refusal(error):
            record.msg = f"{record.getMessage()}: {type(error).__name__}: {error}"
            record.args, record.exc_info = (), None
        return True


def shorten_engine_log() -> None:
    """Let the RunEngine tell of a plan that refused in one line; safe to call again."""
    logger = logging.getLogger(ENGINE_LOG)
    if not any(isinstance(each, WithoutTraceback) for each in logger.filters):
        logger.addFilter(WithoutTraceback())


def shorten_tracebacks(shell: Any, *kinds: type[BaseException]) -> None:
    """Let IPython show only the error itself; ``%tb`` shows the traceback.

    Parameters
    ----------
    shell
        IPython's ``InteractiveShell``.
    *kinds
        Further errors whose text says what to do, such as bluesky's interruption of a plan.
    """

    def show(shell: Any, kind: type, error: BaseException, trace: Any, **_: Any) -> None:
        shell.showtraceback(
            (kind, error, trace), exception_only=isinstance(error, kinds) or is_refusal(error)
        )

    shell.set_custom_exc((Exception,), show)

"""Lines that say what a plan does, in the console while it runs."""

import logging
import sys

LONG_WAIT_S = 3.0
"""A shorter wait of a plan needs no progress bar."""
STEP_LOG = logging.getLogger("skywright.plans")
"""Takes one line for each step of a plan, at level INFO."""


class _StepHandler(logging.Handler):
    """Writes the time and a step to the present standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            sys.stdout.write(f"{self.format(record)}\n")
            sys.stdout.flush()
        except Exception:  # the plan goes on without a console
            self.handleError(record)


_HANDLER = _StepHandler()


def show_steps() -> None:
    """Print the steps of plans from now on; a second call changes nothing."""
    _HANDLER.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    STEP_LOG.addHandler(_HANDLER)
    STEP_LOG.setLevel(logging.INFO)
    STEP_LOG.propagate = False  # the console has the line already

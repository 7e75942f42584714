"""Lines that say what a plan does, in the console while it runs."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LONG_WAIT_S = 3.0
"""A shorter wait of a plan needs no progress bar."""
ROWS_S = 5.0
"""Time without a line about a run, s, after which its number of rows is a line."""
STEP_LOG = logging.getLogger("skywright.plans")
"""Takes one line for each step of a plan, at level INFO."""


@dataclass
class _Run:
    """A run that is open: its plan, and when the console last had a line about it."""

    plan: str
    shown_s: float


class RowSteps:
    """A callback of the RunEngine that logs how many rows a run has, as steps of its plan.

    A plan that records at the machine's rate has no events that the live table could show.

    Parameters
    ----------
    clock
        Returns the time, s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._streams: dict[str, tuple[str, str]] = {}
        """Uid of the run, and name, of each stream by the uid of its descriptor."""

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Take a document of the RunEngine."""
        now = self._clock()
        if name == "start":
            self._runs[document["uid"]] = _Run(str(document.get("plan_name", "run")), now)
        elif name == "descriptor":
            self._streams[document["uid"]] = document["run_start"], document["name"]
        elif name in ("event", "event_page"):
            self._runs[self._streams[document["descriptor"]][0]].shown_s = now
        elif name == "stream_datum":
            uid, stream = self._streams[document["descriptor"]]
            run, rows = self._runs[uid], document["seq_nums"]["stop"] - 1
            if now - run.shown_s >= ROWS_S:
                run.shown_s = now
                STEP_LOG.info("%s: %d rows in %s", run.plan, rows, stream)
        elif name == "stop":
            del self._runs[document["run_start"]]
            self._streams = {k: each for k, each in self._streams.items() if each[0] in self._runs}


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

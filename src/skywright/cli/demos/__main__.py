"""Run demos in one session: ``python -m skywright.cli.demos RESULTS.jsonl NAME...``.

Stdout has the steps, one JSON object per line (`skywright.cli.demos.report_step`). Everything else
goes to stderr.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from skywright.cli.beamline import ensure_beamline
from skywright.cli.demo import demos
from skywright.cli.demos import (
    BEAMLINE,
    DemoResult,
    RunSteps,
    append_results,
    begin_demo,
    failed_demo,
    report_step,
    step,
    steps_to_stdout,
)
from skywright.config import load_settings
from skywright.errors import SkywrightError
from skywright.processes.lifecycle import end_with_parent
from skywright.processes.logs import log_to_stderr
from skywright.session.profile import load_profile

logger = logging.getLogger(__name__)


class SessionNames(dict[str, Any]):
    """The names of a session; the error for a missing name says where to find the reason."""

    def __missing__(self, name: str) -> Any:
        raise SkywrightError(f"the session has no {name}; logs/demo.log says what was left out")


def main(file: Path, names: Sequence[str]) -> None:
    """Start the beamline, load the profile, run the demos; write the results of each to `file`."""
    steps_to_stdout()
    log_to_stderr()
    end_with_parent()
    try:
        with step("starts"):
            ensure_beamline(load_settings(), lambda ready: report_step("starts", detail=ready))
        with step("session starts"):
            session = SessionNames(load_profile())
    except SkywrightError as error:
        for name in names:
            append_results([failed_demo(name, f"{type(error).__name__}: {error}")], file)
        return
    session["RE"].waiting_hook = None  # progress bars are for terminals
    session["RE"].subscribe(RunSteps())
    for name in names:
        begin_demo(name)
        append_results(run_demo(name, session), file)
    begin_demo(BEAMLINE)
    report_step("stops")  # at the exit of this process


def run_demo(name: str, session: Mapping[str, Any]) -> list[DemoResult]:
    """Run a demo and return its results; if it fails, one result with the error."""
    try:
        results: list[DemoResult] = import_module(demos()[name]).run(session)
    except Exception as error:  # after any error the next demo runs
        if not isinstance(error, SkywrightError):
            logger.exception("demo %s", name)
        return [failed_demo(name, f"{type(error).__name__}: {error}")]
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

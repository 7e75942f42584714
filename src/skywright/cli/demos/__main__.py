"""Run one demo in the profile: ``python -m skywright.cli.demos NAME RESULTS.json``.

Stdout has the steps, one JSON object a line (`skywright.cli.demos.report_step`). Everything else
goes to stderr.
"""

import sys
from importlib import import_module
from pathlib import Path

from skywright.cli.demo import demos
from skywright.cli.demos import DemoResult, RunSteps, step, steps_to_stdout, write_results
from skywright.cli.session import have_beamline
from skywright.config import load_settings
from skywright.errors import SkywrightError
from skywright.processes.process import end_with_parent, log_to_stderr
from skywright.session.profile import load_profile


def main(name: str, file: str) -> None:
    """Start the beamline, load the profile, run the demo `name`, write its results to `file`."""
    steps_to_stdout()
    log_to_stderr()
    end_with_parent()
    try:
        with step("beamline starts"):
            have_beamline(load_settings())
        with step("session starts"):
            session = load_profile()
        session["RE"].waiting_hook = None  # progress bars are for terminals
        session["RE"].subscribe(RunSteps())
        results = import_module(demos()[name]).run(session)
    except SkywrightError as error:
        why = {"why": f"{type(error).__name__}: {error}"}
        results = [DemoResult(name, "", [], truth={}, result=why, ok=False, pictures=[])]
    write_results(results, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])

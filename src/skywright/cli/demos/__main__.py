"""Run one demo in the profile: ``python -m skywright.cli.demos NAME RESULTS.json``."""

import sys
from importlib import import_module
from pathlib import Path

from skywright.cli.demos import DemoResult, write_results
from skywright.cli.session import have_beamline
from skywright.config import load_settings
from skywright.errors import SkywrightError
from skywright.profile import load_profile


def main(name: str, file: str) -> None:
    """Start the beamline, load the profile, run the demo `name`, write its results to `file`."""
    try:
        have_beamline(load_settings())
        session = load_profile()
        results = import_module(f"skywright.cli.demos.{name}").run(session)
    except SkywrightError as error:
        why = {"why": f"{type(error).__name__}: {error}"}
        results = [DemoResult(name, "", [], truth={}, result=why, ok=False, pictures=[])]
    write_results(results, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])

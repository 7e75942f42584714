"""The command line of the loopDHS that `skywright loop dhs` replaces."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skywright import __version__
from skywright.errors import ConfigError, SkywrightError
from skywright.instruments.loop.cli.dhs import dhs
from skywright.processes.logs import log_to_stderr
from skywright.processes.options import OptionParser


def main(given: Sequence[str] | None = None) -> None:
    """Run the DHS with the arguments of loopDHS (entry point ``loopDHS``)."""
    arguments = parser().parse_args(sys.argv[1:] if given is None else given)
    log_to_stderr(arguments.verbosity)
    try:
        dhs(config=configuration_file(arguments.beamline), name=arguments.name, host="0.0.0.0")
    except SkywrightError as error:
        sys.stderr.write(f"loopDHS: {error}\n")
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def configuration_file(beamline: str) -> Path:
    """Return ``config/BEAMLINE.config``, where loopDHS reads it; `ConfigError` if there is none."""
    file = Path("config") / f"{beamline}.config"
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; start loopDHS where the directory config is")
    return file


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments of loopDHS."""
    made = OptionParser(prog="loopDHS", description="Find loops for DCSS.")
    made.add_argument("beamline", metavar="BEAMLINE", help="reads config/BEAMLINE.config")
    made.add_argument("name", metavar="NAME", nargs="?", default="loopDHS", help="name in DCSS")
    made.add_argument("--version", action="version", version=f"loopDHS of skywright {__version__}")
    made.add_argument(
        *("-v", "--verbose"),
        dest="verbosity",
        action="count",
        default=0,
        help="-v logs addresses and operations, -vv to -vvvv every message",
    )
    made.add_argument(
        "--very-verbose", dest="verbosity", action="store_const", const=2, help="as -vv"
    )
    return made


if __name__ == "__main__":
    main()

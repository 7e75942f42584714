"""The command line of the old service, psss_processing 1.8, on the new one."""

import argparse
import logging
import sys
from collections.abc import Sequence

from skywright.errors import ConfigError, SkywrightError
from skywright.instruments.psss.cli.app import run_service, serve_arguments
from skywright.instruments.psss.endpoints.options import IMAGE_PORT, OUTPUT_PORT, REST_PORT
from skywright.instruments.psss.pulse import PREFIX
from skywright.instruments.psss.pv_names import OLD_PUT_NAMES, PUT_NAMES
from skywright.processes.logs import log_to_stderr
from skywright.processes.options import OptionParser
from skywright.processes.ports import port_number
from skywright.rooms import PACKAGES

LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")


def main(given: Sequence[str] | None = None) -> None:
    """Run the old service's command line (entry point ``psss_processing``)."""
    try:
        run_service(arguments(sys.argv[1:] if given is None else given))
    except SkywrightError as error:
        sys.stderr.write(f"psss_processing: {error}\n")
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Return the service's arguments for those of the old command line.

    As the old service, it puts to the PVs of an existing IOC, names its channels as version 1.8,
    sends pictures on a stream of their own, and listens on all interfaces.

    Parameters
    ----------
    given
        ``INPUT`` and the old flags.
    """
    old = old_parser().parse_args(given)
    log_to_stderr(0)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(old.log_level)
    host = "0.0.0.0" if old.rest_api_interface in ("", "*") else old.rest_api_interface
    new = [
        *("--prefix", old.prefix, "--host", host, "--output-host", "0.0.0.0"),
        *("--input", old.input if "://" in old.input else f"tcp://{old.input}"),
        *("--output-port", str(old.data_output_stream_port)),
        *("--image-port", str(old.image_output_stream_port)),
        *("--rest-port", str(old.rest_api_port), "--names", "1.8"),
        *(["--auto-start"] if old.auto_start else []),
    ]
    if old.no_pvs:
        new += ["--no-ca"]
    else:
        new.append("--put-pvs")
        for name in PUT_NAMES:  # the old service put to no other PVs of the IOC
            pv = getattr(old, f"{name}_pv") if name in OLD_PUT_NAMES else ""
            new += [f"--{name.replace('_', '-')}-pv", pv]
    return serve_arguments(new)


def old_parser() -> argparse.ArgumentParser:
    """Return the parser of the old flags, with their defaults."""
    parser = OptionParser("psss_processing", description="PSSS processing service.")
    add = parser.add_argument
    add("input", metavar="INPUT", help="tcp://HOST:PORT of the camera's stream")
    add("-i", "--prefix", default=PREFIX, help="prefix of the channels (%(default)s)")
    # As before, the names of the PVs do not follow the prefix.
    for name in OLD_PUT_NAMES:
        flags = [*(["-p"] if name == "output" else []), f"--{name}_pv"]
        add(*flags, default=f"{PREFIX}:{PUT_NAMES[name]}", help="(%(default)s)")
    add(
        "-o",
        "--data_output_stream_port",
        type=port_number,
        default=OUTPUT_PORT,
        help="(%(default)s)",
    )
    add("--image_output_stream_port", type=port_number, default=IMAGE_PORT, help="(%(default)s)")
    add("-r", "--rest_api_port", type=port_number, default=REST_PORT, help="(%(default)s)")
    add("--rest_api_interface", default="0.0.0.0", help="(%(default)s)")
    add("--log_level", default="INFO", choices=LEVELS, help="(%(default)s)")
    add("--auto_start", action="store_true", help="process without waiting for POST /start")
    add("--no_pvs", action="store_true", help="leave the PVs alone (not in the old service)")
    return parser

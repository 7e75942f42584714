"""Command line of the PSSS service, and the source that it selects."""

import argparse
from pathlib import Path

from skywright.acquire.source import Source
from skywright.errors import ConfigError
from skywright.instruments.psss.endpoints.stream import NAMES, PICTURE
from skywright.instruments.psss.pulse import PREFIX, Pulse
from skywright.processes.options import limited, positive_number
from skywright.processes.ports import port_number

OUTPUT_PORT, IMAGE_PORT, REST_PORT = 8889, 8890, 12000
SOURCES = ("bsread", "sim", "replay")


def add_service_arguments(
    parser: argparse.ArgumentParser,
    source: str,
    output_port: int = OUTPUT_PORT,
    rest_port: int = REST_PORT,
) -> None:
    """Add the arguments that `make_source` and `Service` read, except prefix, host, seed and speed.

    Parameters
    ----------
    parser
        Parser that gets the arguments.
    source, output_port, rest_port
        Defaults; port 0: a free one.
    """
    group = parser.add_argument_group("pulses")
    add = group.add_argument
    add("--source", choices=SOURCES, default=source, help="source of the pulses (%(default)s)")
    add("--input", default="", metavar="TCP", help="bsread: tcp://HOST:PORT of the camera's stream")
    add(
        "--input-kind",
        choices=["pull", "sub"],
        default="pull",
        help="bsread: with pull, other readers of the same PUSH do not get the messages that the "
        "service gets; with sub, each reader of a PUB gets all messages",
    )
    add(
        "--step",
        type=limited(int, 1, 10**6),
        help="bsread: difference between the pulse ids of successive messages; learnt if not given",
    )
    add(
        "--energy-channel",
        default="",
        metavar="NAME",
        help="bsread: channel of the same stream with the pulse's energy, uJ, for the brightness",
    )
    add("--path", type=Path, help="replay: HDF5 file of pictures")
    add("--dataset", help="replay: (n, rows, columns) in it")
    add(
        "--rate",
        type=positive_number,
        default=100.0,
        help="sim, replay: pulses a second (%(default)g)",
    )
    add("--size", default="2560x2160", metavar="WxH", help="sim: of the picture (%(default)s)")
    group = parser.add_argument_group("processing and its clients")
    add = group.add_argument
    add("--auto-start", action="store_true", help="process without waiting for POST /start")
    add(
        "--restore",
        action="store_true",
        help="begin with the settings of the last time: ROI, axis, modes, background",
    )
    add(
        "--threads",
        type=limited(int, 1, 1000),
        default=1,
        help="pictures processed side by side (%(default)s)",
    )
    add(
        "--output-port", type=port_number, default=output_port, help="results, bsread (%(default)s)"
    )
    add("--output-host", default="", help="interface of the output (default: that of --host)")
    add(
        "--output-kind",
        choices=["push", "pub"],
        default="push",
        help="push shares the messages between readers, pub gives all to each, and counts only the "
        "first of a series that a slow one misses (%(default)s)",
    )
    add(
        "--names", choices=NAMES, default="readme", help="channel names of the output (%(default)s)"
    )
    add(
        "--image-port",
        type=port_number,
        help=f"pictures on a stream of their own, {IMAGE_PORT} in version 1.8; else with results",
    )
    add("--rest-port", type=port_number, default=rest_port, help="REST API, HTTP (%(default)s)")
    add(
        "--background-dir",
        type=Path,
        metavar="DIR",
        help="history of the backgrounds, settings.json of --restore, and last_pulse; each service "
        "needs a directory of its own (default: below the store's directory)",
    )


def make_source(args: argparse.Namespace) -> Source[Pulse]:
    """Return the source that the arguments select.

    Raises
    ------
    ConfigError
        If an argument is missing or wrong; the message names it.
    """
    if args.source == "sim":
        from skywright.instruments.psss.sources.sim import SimSource
        from skywright.instruments.psss.twin import InstrumentSettings
        from skywright.instruments.psss.twin.settings import parse_size

        columns, rows = parse_size(args.size)
        settings = InstrumentSettings(rows=rows, columns=columns)
        return SimSource(settings, rate_hz=args.rate, speed=args.speed, seed=args.seed)
    if args.source == "replay":
        from skywright.instruments.psss.sources.replay import ReplaySource

        if args.path is None:
            raise ConfigError("--source replay: name the HDF5 file with --path")
        if not args.path.is_file():
            raise ConfigError(f"--path {args.path}: no such file")
        return ReplaySource(args.path, args.dataset, rate_hz=args.rate * args.speed)
    from skywright.instruments.psss.sources.bsread import BsreadSource

    host, _, port = args.input.removeprefix("tcp://").rpartition(":")
    is_port = port.isdecimal() and 0 < int(port) < 65536
    if not args.input.startswith("tcp://") or not host or not is_port:
        raise ConfigError(
            f"--input {args.input!r}: expected tcp://HOST:PORT of the camera's stream, "
            "or take --source sim"
        )
    channel = f"{channel_prefix(args.prefix)}:{PICTURE}"
    return BsreadSource(
        args.input,
        channel,
        kind=args.input_kind,
        step=args.step,
        energy_channel=args.energy_channel,
    )


def channel_prefix(prefix: str) -> str:
    """Return the prefix of the channels, which has no colon at its end.

    Raises
    ------
    ConfigError
        If the prefix is empty.
    """
    bare = prefix.rstrip(":")
    if not bare:
        raise ConfigError(f"--prefix {prefix!r}: expected one such as {PREFIX}")
    return bare

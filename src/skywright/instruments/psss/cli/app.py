"""``skywright psss ...``: the service of the single-shot spectrometer, and the old command line."""

import argparse
import importlib.util
import threading
from collections.abc import Sequence
from typing import Any

import typer

from skywright.errors import ConfigError
from skywright.instruments.psss.pv_names import OLD_PUT_NAMES, PUT_NAMES
from skywright.processes.lifecycle import (
    announce_ready,
    call_on_end_signal,
    default_signal_handling,
    end_process,
    end_with_parent,
)
from skywright.processes.options import OptionParser, positive_number
from skywright.processes.ports import port_number

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    """Single-shot spectrometer: spectra of every pulse, over bsread, REST and PVs."""


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def serve(context: typer.Context) -> None:
    """Serve spectra: bsread in, results over bsread, REST and PVs (serve --help lists all)."""
    run_service(serve_arguments(context.args))


def serve_arguments(given: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of ``skywright psss serve``; ``--help`` prints and exits."""
    from skywright.instruments.psss.endpoints.options import add_service_arguments
    from skywright.instruments.psss.pulse import PREFIX

    parser = OptionParser("skywright psss serve", description=SERVE)
    add = parser.add_argument
    add("--prefix", default=PREFIX, help="prefix of channels and PVs (%(default)s)")
    add("--host", default="127.0.0.1", help="interface to serve on, 0.0.0.0: all (%(default)s)")
    add_service_arguments(parser, source="bsread")
    add_pv_arguments(parser)
    add("--seed", type=int, default=0, help="sim: seed of the random numbers (%(default)s)")
    factor = "sim, replay: factor on --rate (%(default)s)"
    add("--speed", type=positive_number, default=1.0, help=factor)
    return parser.parse_args(given)


SERVE = (
    "Take the camera's pictures, make a spectrum of each, and publish both. Stopped until "
    "POST /start or --auto-start. Prints one JSON line with the ports when it serves; ends on "
    "SIGTERM."
)


def add_pv_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the PVs: those that are hosted, and those of another IOC."""
    group = parser.add_argument_group("PVs")
    add = group.add_argument
    add("--no-ca", action="store_true", help="neither host nor put PVs")
    add(
        "--put-pvs",
        action="store_true",
        help="serve no PVs: read ROI and axis from those of an existing IOC, put results there",
    )
    add(
        "--ca-port",
        dest="port",
        type=port_number,
        default=None,
        help="TCP and UDP; 0 takes a free one, for clients that name it (default: UDP 5064, shared "
        "with other IOCs, and TCP 5064 or, if it is taken, another)",
    )
    for name, suffix in PUT_NAMES.items():
        add(f"--{name.replace('_', '-')}-pv", metavar="PV", help=f"--put-pvs: PREFIX:{suffix}")


def run_service(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT, then end the process.

    Raises
    ------
    ConfigError
        If an argument cannot be used; the message names it.
    """
    if args.put_pvs and args.no_ca:
        raise ConfigError("--put-pvs and --no-ca exclude each other")
    if args.no_ca or args.put_pvs:
        _serve_without_own_pvs(args)
    else:
        _serve_with_own_pvs(args)


def _serve_with_own_pvs(args: argparse.Namespace) -> None:
    """Serve with the PVs, as ``python -m iocs.psss`` does."""
    import asyncio

    _check_caproto()
    from iocs.common import serve
    from iocs.psss.ioc import build

    args.prefix = args.prefix.rstrip(":") + ":"
    group, facts = build(args)
    asyncio.run(serve(group, args, facts))
    end_process()


def _serve_without_own_pvs(args: argparse.Namespace) -> None:
    from skywright.instruments.psss.endpoints.service import Service

    end_with_parent()
    with default_signal_handling():
        service = Service(args)
        service.processor.warm.wait()
    over = threading.Event()
    call_on_end_signal(over.set)
    puts: Any = None
    if args.put_pvs:
        _check_caproto()
        from iocs.psss.puts import Puts

        puts = Puts(service.processor, put_names(args), service.averages.get)
        service.health_parts["pvs"] = puts.status
    service.begin(args.auto_start)
    announce_ready(prefix=service.prefix, **service.facts)
    over.wait()
    if puts is not None:
        puts.close()
    service.close()
    end_process()


def _check_caproto() -> None:
    if importlib.util.find_spec("caproto") is None:
        raise ConfigError(
            "PVs need caproto: pip install 'skywright[psss,epics]', or serve with --no-ca"
        )


def put_names(args: argparse.Namespace) -> dict[str, str]:
    """Return the names of the PVs of the existing IOC, by the keys of `PUT_NAMES`.

    A PV that the old service did not have is left out if its argument is "".
    """
    prefix = args.prefix.rstrip(":")
    given = {name: getattr(args, f"{name}_pv") for name in PUT_NAMES}
    return {
        name: given[name] or f"{prefix}:{suffix}"
        for name, suffix in PUT_NAMES.items()
        if given[name] != "" or name in OLD_PUT_NAMES
    }

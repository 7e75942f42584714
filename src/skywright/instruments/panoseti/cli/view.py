"""``skywright panoseti view``: check a server, look at its images."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from skywright.errors import ConfigError


def view(
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DAQ_CONFIG | MODULE",
            help="With --list-hosts a daq_config.json; with --module-ids further modules.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="HOST, HOST:PORT or unix:PATH.")] = "localhost",
    ping: Annotated[bool, typer.Option("--ping", help="Check that the server answers.")] = False,
    list_hosts: Annotated[
        bool,
        typer.Option("--list-hosts", help="Ping the host, or every node of a DAQ_CONFIG."),
    ] = False,
    reflect_services: Annotated[
        bool, typer.Option("--reflect-services", help="List the server's services.")
    ] = False,
    init: Annotated[
        Path | None, typer.Option(help="Call InitHpIo with a hp_io_config.json.")
    ] = None,
    init_sim: Annotated[
        bool, typer.Option("--init-sim", help="Make the server simulate; other streams end.")
    ] = False,
    plot_view: Annotated[bool, typer.Option("--plot-view", help="Show the newest images.")] = False,
    plot_phdist: Annotated[
        bool, typer.Option("--plot-phdist", help="Show the distribution of the largest pixels.")
    ] = False,
    plot_speed: Annotated[
        bool, typer.Option("--plot-speed", help="Show images per second.")
    ] = False,
    refresh_period: Annotated[float, typer.Option(help="Time between two pictures, s.")] = 1.0,
    module_ids: Annotated[
        list[int] | None, typer.Option(help="Only these modules: --module-ids 1 3 254.")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(help="Directory for PNG files, written instead of windows."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="End after this time, s; 0: never.")] = 0.0,
) -> None:
    """Check a DaqData server, and show its images live; without other options, only check it."""
    from skywright.instruments.panoseti.live import client
    from skywright.instruments.panoseti.live.config import HpIoConfig, load_hp_io_config

    if refresh_period <= 0:
        raise ConfigError(f"--refresh-period {refresh_period:g}: expected a time above 0 s")
    modules, configs = _modules_and_files(rest or [])
    if modules and not module_ids:
        raise ConfigError(f"{modules[0]}: modules follow --module-ids")
    if configs and not list_hosts:
        raise ConfigError(f"{configs[0]}: only --list-hosts reads a daq_config.json")
    if init is not None and init_sim:
        raise ConfigError("use one of --init and --init-sim")
    if list_hosts:
        _list_hosts([node for path in configs for node in _nodes(path)] or [host])
    plots = [plot_view, plot_phdist, plot_speed]
    if ping or not any([*plots, list_hosts, reflect_services, init, init_sim]):
        client.ping(host)
        typer.echo(f"{host}: answers")
    if reflect_services:
        for name, methods in client.services(host).items():
            typer.echo(f"{name}: {', '.join(methods)}")
    if init is not None:
        client.init(host, load_hp_io_config(init))
    if init_sim:
        client.init(host, HpIoConfig(simulate_daq=True, force=True, update_interval_seconds=0.1))
    if any(plots):
        from skywright.instruments.panoseti.live.show import show
        from skywright.instruments.panoseti.live.views import MaxPixels, Preview, Speed, View

        kinds: dict[str, type[View]] = {"view": Preview, "phdist": MaxPixels, "speed": Speed}
        asyncio.run(
            show(
                {name: kinds[name]() for name, on in zip(kinds, plots, strict=True) if on},
                host,
                movie=plot_view or plot_speed,
                interval_s=-1.0 if plot_phdist or plot_speed else refresh_period,
                modules=[*(module_ids or []), *modules],
                period_s=refresh_period,
                png=png,
                seconds=seconds,
            )
        )


def _modules_and_files(words: list[str]) -> tuple[list[int], list[Path]]:
    """Return the words that are numbers, and those that are not."""
    numbers = [int(word) for word in words if word.isdecimal()]
    return numbers, [Path(word) for word in words if not word.isdecimal()]


def _nodes(path: Path) -> list[str]:
    try:
        return [str(node["ip_addr"]) for node in json.loads(path.read_bytes())["daq_nodes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected daq_nodes[].ip_addr ({error})") from error


def _list_hosts(nodes: list[str]) -> None:
    from skywright.errors import HardwareError
    from skywright.instruments.panoseti.live import client

    for node in nodes:
        try:
            client.ping(node, 0.3)
            typer.echo(f"{node}: answers")
        except HardwareError as error:
            typer.echo(f"{node}: no answer ({error})")

"""``skywright panoseti view``: check a server, look at its images."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skywright.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def view(
    host: Annotated[str, typer.Option(help="HOST, HOST:PORT or unix:PATH.")] = "localhost",
    ping: Annotated[bool, typer.Option("--ping", help="Check that the server answers.")] = False,
    list_hosts: Annotated[
        Path | None, typer.Option(help="Ping every node of a daq_config.json.")
    ] = None,
    reflect_services: Annotated[
        bool, typer.Option("--reflect-services", help="List the server's services.")
    ] = False,
    init: Annotated[
        Path | None, typer.Option(help="Call InitHpIo with a hp_io_config.json.")
    ] = None,
    init_sim: Annotated[
        bool, typer.Option("--init-sim", help="Let the server simulate, ending other streams.")
    ] = False,
    plot_view: Annotated[bool, typer.Option("--plot-view", help="The newest images.")] = False,
    plot_phdist: Annotated[
        bool, typer.Option("--plot-phdist", help="Distribution of the largest pixels.")
    ] = False,
    plot_speed: Annotated[bool, typer.Option("--plot-speed", help="Images per second.")] = False,
    refresh_period: Annotated[float, typer.Option(help="Time between two pictures, s.")] = 1.0,
    module_ids: Annotated[
        list[int] | None, typer.Option(help="Only this module; may be repeated.")
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
    if list_hosts is not None:
        _list_hosts(list_hosts)
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
        asyncio.run(_show(host, plots, refresh_period, module_ids or [], png, seconds))


def _list_hosts(path: Path) -> None:
    from skywright.errors import HardwareError
    from skywright.instruments.panoseti.live import client

    try:
        nodes = [str(node["ip_addr"]) for node in json.loads(path.read_text())["daq_nodes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected daq_nodes[].ip_addr ({error})") from error
    for node in nodes:
        try:
            client.ping(node, 0.3)
            typer.echo(f"{node}: answers")
        except HardwareError as error:
            typer.echo(f"{node}: no answer ({error})")


async def _show(
    host: str, plots: list[bool], period_s: float, modules: list[int], png: Path | None,
    seconds: float,
) -> None:  # fmt: skip
    from skywright.instruments.panoseti.live.client import stream
    from skywright.instruments.panoseti.live.views import MaxPixels, Preview, Speed, View

    names = ("view", "phdist", "speed")
    kinds: tuple[type[View], ...] = (Preview, MaxPixels, Speed)
    chosen = {name: kind() for name, kind, on in zip(names, kinds, plots, strict=True) if on}
    if png is not None:
        png.mkdir(parents=True, exist_ok=True)
    else:
        # The speed is printed: it needs no window.
        windows = _windows([name for name in chosen if name != "speed"])

    async def draw() -> None:
        while True:
            await asyncio.sleep(period_s)
            for name, view in chosen.items():
                if isinstance(view, Speed):
                    for key, rate in view.rates().items():
                        sys.stdout.write(f"{key}: {rate:.1f} images/s\n")
                    sys.stdout.flush()
                elif png is not None:
                    await asyncio.to_thread(view.save, png / f"{name}.png")
                else:
                    figure = windows[name]
                    figure.clear()
                    view.draw(figure)
                    figure.canvas.draw_idle()
                    figure.canvas.flush_events()

    drawing = asyncio.create_task(draw())
    movie = bool(plots[0] or plots[2])
    interval_s = period_s if plots == [True, False, False] else -1.0
    images = stream(host, movie=movie, interval_s=interval_s, modules=modules)
    try:
        async with asyncio.timeout(seconds or None):
            async for image in images:
                for view in chosen.values():
                    view.update(image)
                if drawing.done():
                    drawing.result()
    except TimeoutError:
        if not seconds:
            raise
    finally:
        drawing.cancel()
        for name, view in chosen.items():
            if png is not None and not isinstance(view, Speed):
                view.save(png / f"{name}.png")


def _windows(names: list[str]) -> dict[str, "Figure"]:
    if not names:
        return {}
    import matplotlib.pyplot as plt

    if (
        not plt.get_backend()
        .lower()
        .startswith(("tk", "qt", "gtk", "wx", "macosx", "webagg", "nb"))
    ):
        raise ConfigError("no display for windows; use --png DIRECTORY for files")
    plt.ion()
    return {name: plt.figure(name, layout="constrained") for name in names}

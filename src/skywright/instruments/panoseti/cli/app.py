"""``skywright panoseti ...``: live images over gRPC."""

import asyncio
import math
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from skywright.errors import ConfigError
from skywright.instruments.panoseti.cli.view import view
from skywright.instruments.panoseti.products import HIGHEST_MODULE

app = typer.Typer(no_args_is_help=True, add_completion=False)

HOST = "127.0.0.1"


@app.callback()
def _group() -> None:
    """PANOSETI: live images, files and timing receivers."""


app.command()(view)


@app.command()
def serve(
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Follow the runs of this directory from the start, without InitHpIo."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")
    ] = 50051,
    host: Annotated[str, typer.Option(help="Interface; '[::]' for all.")] = HOST,
    config: Annotated[
        Path | None, typer.Option(help="A daq_data_server_config.json; defaults without one.")
    ] = None,
    hp_io_config: Annotated[
        Path | None, typer.Option(help="A hp_io_config.json: what to read from the start.")
    ] = None,
    unix_socket: Annotated[
        str | None, typer.Option(help="Also listen here; '' for no Unix socket.")
    ] = None,
    update_interval: Annotated[
        float, typer.Option(help="With --data-dir: shortest time between two reads of a file, s.")
    ] = 0.001,
    module_ids: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            max=HIGHEST_MODULE,
            help="With --data-dir: these modules only; may be repeated.",
        ),
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Serve simulated images, as configured.")
    ] = False,
) -> None:
    """Serve live images to any number of clients (DaqData gRPC)."""
    from skywright.instruments.panoseti.live.config import (
        HpIoConfig,
        ServerConfig,
        load_hp_io_config,
        load_server_config,
    )
    from skywright.instruments.panoseti.live.server import serve as serve_forever
    from skywright.processes.lifecycle import end_with_parent

    if not 0 < update_interval < math.inf:
        raise ConfigError(f"--update-interval {update_interval:g}: expected a time above 0 s")
    if sum((data_dir is not None, simulate, hp_io_config is not None)) > 1:
        raise ConfigError("use one of --data-dir, --simulate and --hp-io-config")
    if module_ids and data_dir is None:
        raise ConfigError("--module-ids goes with --data-dir")
    end_with_parent()
    settings = load_server_config(config) if config else ServerConfig()
    if unix_socket is not None:
        settings = settings.model_copy(update={"unix_domain_socket": unix_socket or None})
    start = None
    if data_dir is not None:
        if not data_dir.is_dir():
            raise ConfigError(f"--data-dir {data_dir} is no directory")
        start = HpIoConfig(
            data_dir=str(data_dir),
            update_interval_seconds=update_interval,
            module_ids=tuple(module_ids or ()),
        )
    elif simulate:
        start = HpIoConfig(simulate_daq=True, update_interval_seconds=update_interval)
    elif hp_io_config is not None:
        start = load_hp_io_config(hp_io_config)
    elif config is not None and settings.init_from_default:
        start = load_hp_io_config(config.parent / settings.default_hp_io_config_file)
    asyncio.run(_serve_and_end(serve_forever(settings, start, host.strip("[]"), port)))


@app.command()
def ublox(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")
    ] = 50051,
    host: Annotated[str, typer.Option(help="Interface.")] = HOST,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Also run a simulated receiver.")
    ] = False,
) -> None:
    """Serve a ZED-F9T timing receiver (UbloxControl gRPC)."""
    from skywright.instruments.panoseti.ublox.server import serve as serve_receiver
    from skywright.processes.lifecycle import end_with_parent

    end_with_parent()
    asyncio.run(_serve_and_end(serve_receiver(host, port, simulate)))


async def _serve_and_end(serving: Coroutine[Any, Any, None]) -> None:
    """Serve, then end the process: asyncio would first wait for threads that still read a file."""
    from skywright.processes.lifecycle import end_process

    await serving
    end_process()

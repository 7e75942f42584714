"""``skywright loop dhs``: the hardware server that DCSS talks to, over a `Camera`."""

import asyncio
import contextlib
import importlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skywright.arguments import check_output_directory
from skywright.config import Settings, load_settings
from skywright.errors import ConfigError, message_of
from skywright.processes.lifecycle import (
    END_SIGNALS,
    announce_ready,
    end_process,
    end_with_parent,
)
from skywright.processes.logs import log_to_file
from skywright.processes.ports import http_url

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from skywright.instruments.loop.backends import Detector
    from skywright.instruments.loop.camera import Camera
    from skywright.instruments.loop.dhs.config import DhsConfig
    from skywright.instruments.loop.dhs.recording import BeginRun
    from skywright.processes.http_server import HttpServer

logger = logging.getLogger(__name__)

DCSS_PORT = 14242
STATUS_PORT = 9001
NAME = re.compile("[!-~]{1,100}")
AUTOML_WORKERS = 4
"""Pictures with the inference service at a time, so that the way there and back costs nothing."""
SNAPSHOT_LIMIT_S = 10.0
CLOSE_S = 1.5
"""Limit for the end of the recording, s: with that of the series (`dhs.series.HANG_S`) a DHS ends
within 10 s."""


@dataclass(frozen=True)
class Options:
    """What was asked for: the command's arguments over the configuration file's values."""

    dcss: tuple[str, int]
    name: str
    host: str
    receiver_port: int
    snapshot_url: str
    automl_url: str
    save_directory: Path | None
    file: Path | None
    config: "DhsConfig"
    status_port: int | None = None


def dhs(
    dcss: Annotated[str, typer.Option(metavar="HOST:PORT", help="DCSS's hardware port.")] = "",
    name: Annotated[str, typer.Option(help="Name of this DHS in DCSS's database.")] = "loopDHS",
    receiver_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="HTTP port of the uploads; 0: any.")
    ] = None,
    snapshot_url: Annotated[
        str, typer.Option(metavar="URL", help="Camera, or its single pictures.")
    ] = "",
    automl_url: Annotated[
        str, typer.Option(metavar="URL", help="AutoML service; default: loop.detection.")
    ] = "",
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of the loopDHS that this replaces.")
    ] = None,
    save_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save each picture of a series here.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Interface of uploads, /health and /metrics; 0.0.0.0: all.")
    ] = "127.0.0.1",
    status_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="HTTP port of /health and /metrics; 0: any.",
            show_default=f"{STATUS_PORT} if it is free",
        ),
    ] = None,
) -> None:
    """Serve DCSS: find loops in camera pictures, one by one and in series.

    It connects to DCSS, and again whenever the connection is lost, until Ctrl-C or SIGTERM. Each
    series becomes a run if a store is configured (skywright.toml, SKYWRIGHT_STORE__DIRECTORY) or
    the default one exists.
    """
    from skywright.instruments.loop.dhs.config import DhsConfig, read_config

    if not NAME.fullmatch(name):
        raise ConfigError(
            f"--name {name!r}: expected the name in the database of DCSS: ASCII, no blanks"
        )
    if save_dir is not None:
        check_output_directory("--save-dir", save_dir)
    file = read_config(config) if config is not None else DhsConfig()
    options = Options(
        dcss=_address(dcss, file),
        name=name,
        host=host,
        receiver_port=file.jpeg_receiver.port if receiver_port is None else receiver_port,
        snapshot_url=snapshot_url or (file.axis.snapshot_url if file.axis else ""),
        automl_url=automl_url or (file.automl.url if file.automl else ""),
        save_directory=save_dir or file.save_directory(datetime.now()),
        file=config,
        config=file,
        status_port=status_port,
    )
    if file.log_dir is not None:
        log_to_file(file.log_dir / f"{name}.log")
    end_with_parent()
    asyncio.run(_serve(options))


def _address(given: str, config: "DhsConfig") -> tuple[str, int]:
    """Return host and port of DCSS."""
    if not given:
        if config.dcss is None:
            raise ConfigError("--dcss HOST:PORT: name DCSS, or a --config file with dcss.host")
        return config.dcss.host, config.dcss.port
    from skywright.instruments.loop.dhs.config import is_host

    name, _, port = given.rpartition(":") if ":" in given else (given, "", str(DCSS_PORT))
    host = name.strip("[]")
    if not is_host(host) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--dcss {given}: expected HOST:PORT, such as dcss.beamline:{DCSS_PORT}")
    return host, int(port)


async def _serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT, then end the process."""
    from skywright.instruments.loop.analysis import LoopDetection
    from skywright.instruments.loop.camera import Camera
    from skywright.instruments.loop.dhs.service import Dhs
    from skywright.instruments.loop.dhs.status import status_app
    from skywright.instruments.loop.sources.fetched import file_fetcher
    from skywright.instruments.loop.sources.push import PushedPictures

    settings = load_settings()
    analysis = LoopDetection(**_parameters(options, settings))
    parameters, detector = analysis.parameters, analysis.detector
    begin_run = _catalog(options.name, parameters, settings)
    workers = AUTOML_WORKERS if parameters.get("backend") == "automl" else 1
    source = PushedPictures(options.host, options.receiver_port)
    camera = Camera(source)
    url, warm = options.snapshot_url, asyncio.Event()
    fetch = file_fetcher(url, timeout_s=SNAPSHOT_LIMIT_S) if url else None
    saved_in = options.save_directory
    dhs = Dhs(
        options.name, camera, detector, fetch, begin_run, options.config, saved_in, workers, warm
    )
    facts = {
        "dcss": "{}:{}".format(*options.dcss),
        "receiver_port": source.port,
        "recorded": begin_run is not None,
    }
    shown = {**facts, "save_directory": str(saved_in or "")}
    http = _serve_status(status_app(dhs.state, detector.trouble, shown), options)
    _log_banner(options, source.port, http, parameters, begin_run is not None)
    serving = asyncio.create_task(dhs.run(*options.dcss))
    loop = asyncio.get_running_loop()
    for number in END_SIGNALS:
        # A second signal must not cut off what the first one has begun to close.
        loop.add_signal_handler(number, lambda: serving.cancelling() or serving.cancel())

    async def warm_up() -> None:
        # On threads: DCSS allows 1 s for the handshake, a compiler takes longer.
        await asyncio.to_thread(_load, detector)
        warm.set()
        announce_ready(name=options.name, status_port=http.port if http else None, **facts)
        await asyncio.to_thread(_compile)

    warming = asyncio.create_task(warm_up())
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    warming.cancel()
    await _close(camera)
    # Neither an open request for /health, nor a detector that waits for its service, nor a compiler
    # may hold up the end.
    end_process()


async def _close(camera: "Camera") -> None:
    """Close the camera, but do not wait for a disk that hangs."""
    closing = asyncio.create_task(asyncio.to_thread(camera.close))
    if not (await asyncio.wait([closing], timeout=CLOSE_S))[0]:
        logger.error("the recording is not closed after %g s: a slow disk", CLOSE_S)
    elif (error := closing.exception()) is not None:
        logger.error("the recording is not closed: %s", message_of(error))


def _serve_status(app: "Starlette", options: Options) -> "HttpServer | None":
    """Serve /health and /metrics; without a port of its own asked for, go on if it is taken."""
    from skywright.processes.http_server import HttpServer

    port = STATUS_PORT if options.status_port is None else options.status_port
    try:
        return HttpServer(app, options.host, port)
    except ConfigError as error:
        if options.status_port is not None:
            raise
        logger.warning("no /health and /metrics: %s (--status-port)", error)
        return None


def _load(detector: "Detector") -> None:
    """Load the detector; if that fails, the log says so, and each answer to a picture does."""
    logger.info("warming up: the detector is being loaded")
    if trouble := detector.trouble():
        logger.error("%s; our detector is used until it answers", trouble)
    try:
        detector.warm_up()
    except Exception:
        logger.exception("the detector cannot be loaded")


def _compile() -> None:
    """Compile what fits a turn, and import what draws it: only the end of a series needs them."""
    importlib.import_module("skywright.instruments.loop.centering").warm_up()
    importlib.import_module("matplotlib.figure")


def _log_banner(
    options: Options,
    receiver_port: int,
    http: "HttpServer | None",
    parameters: Mapping[str, Any],
    recorded: bool,
) -> None:
    """Log the addresses and directories in use, a line each, at level INFO."""
    import httpx

    from skywright.wire.axis_client import hide_login, without_login

    log_dir = options.config.log_dir
    facts = {
        "name in DCSS": options.name,
        "DCSS": "{}:{}".format(*options.dcss),
        "configuration file": options.file or "none",
        "uploads are taken at": f"{options.host}:{receiver_port}",
        "single pictures": without_login(httpx.URL(url))
        if (url := options.snapshot_url)
        else "none",
        "detector": ", ".join(
            f"{key} {hide_login(value) if key == 'url' else value}"
            for key, value in parameters.items()
        ),
        "pictures are saved in": options.save_directory or "no directory",
        "log file": log_dir / f"{options.name}.log" if log_dir else "none",
        "/health and /metrics": http_url(options.host, http.port) if http else "nowhere",
        "series become runs": "yes" if recorded else "no, no store is configured",
    }
    for what, value in facts.items():
        logger.info("%s: %s", what, value)


def _parameters(options: Options, settings: Settings) -> dict[str, Any]:
    """Return the parameters of the analysis `loop_detection`: what searches the pictures."""
    if not options.automl_url:
        return dict(settings.loop.detection)
    parameters: dict[str, Any] = {"backend": "automl", "url": options.automl_url}
    if automl := options.config.automl:
        given = {"threshold": automl.threshold, "most_boxes": automl.scan_n_results}
        parameters |= {key: value for key, value in given.items() if value is not None}
    return parameters


def _catalog(name: str, parameters: dict[str, Any], settings: Settings) -> "BeginRun | None":
    """Return what begins a run in the store's journal; None where there is no store."""
    if "store" not in settings.model_fields_set and not settings.directory.is_dir():
        return None
    from skywright.callbacks.journal import Journal
    from skywright.cli.up import check_directory
    from skywright.instruments.loop.series_run import RecordedDetection, SeriesRun
    from skywright.session.profile import run_metadata

    check_directory(settings)
    journal = Journal(settings.journals)
    common = {**run_metadata(settings), "dhs": name}

    def begin(metadata: Mapping[str, Any]) -> SeriesRun:
        assets = settings.assets
        return SeriesRun(RecordedDetection(**parameters), journal, assets, {**common, **metadata})

    return begin

"""``skywright loop dhs``: the hardware server that DCSS talks to, over the owner of the camera."""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skywright.config import Settings, load_settings
from skywright.errors import ConfigError
from skywright.process import announce_ready, end_with_parent

if TYPE_CHECKING:
    from skywright.services.dhs.config import DhsConfig
    from skywright.services.dhs.recording import BeginRun
    from skywright.services.dhs.snapshots import Fetch

logger = logging.getLogger(__name__)

DCSS_PORT = 14242
AUTOML_WORKERS = 4
"""Pictures with the inference service at a time, so that the way there and back costs nothing."""
SNAPSHOT_LIMIT_S = 10.0


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
    config: "DhsConfig"


def dhs(
    dcss: Annotated[str, typer.Option(metavar="HOST:PORT", help="DCSS's hardware port.")] = "",
    name: Annotated[str, typer.Option(help="Name of this DHS in DCSS's database.")] = "loopDHS",
    receiver_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Where the video server uploads; 0: any.")
    ] = None,
    snapshot_url: Annotated[
        str, typer.Option(metavar="URL", help="Of the camera, or of its single pictures.")
    ] = "",
    automl_url: Annotated[
        str, typer.Option(metavar="URL", help="Of an inference service; else [loop_detection].")
    ] = "",
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of the loopDHS that this replaces.")
    ] = None,
    save_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save each picture of a series there.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Interface on which uploads are taken; 0.0.0.0: all.")
    ] = "127.0.0.1",
) -> None:
    """Serve DCSS: find loops in camera pictures, one by one and in series.

    It connects to DCSS, and again whenever the connection is lost, until Ctrl-C or SIGTERM. Each
    series becomes a run if a store is configured (skywright.toml, SKYWRIGHT_STORE__DIRECTORY) or
    the default one exists.
    """
    from skywright.services.dhs.config import DhsConfig, read_config

    file = read_config(config) if config is not None else DhsConfig()
    options = Options(
        dcss=_address(dcss, file),
        name=name,
        host=host,
        receiver_port=file.jpeg_receiver.port if receiver_port is None else receiver_port,
        snapshot_url=snapshot_url or (file.axis.snapshot_url if file.axis else ""),
        automl_url=automl_url or (file.automl.url if file.automl else ""),
        save_directory=save_dir or (file.save_image_dir if file.save_image_files else None),
        config=file,
    )
    end_with_parent()
    asyncio.run(_serve(options))


def _address(given: str, config: "DhsConfig") -> tuple[str, int]:
    """Return host and port of DCSS."""
    if not given:
        if config.dcss is None:
            raise ConfigError("--dcss HOST:PORT: name DCSS, or a --config file with dcss.host")
        return config.dcss.host, config.dcss.port
    host, _, port = given.rpartition(":") if ":" in given else (given, "", str(DCSS_PORT))
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"--dcss {given}: expected HOST:PORT, such as dcss.beamline:{DCSS_PORT}")
    return host.strip("[]"), int(port)


async def _serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT."""
    from skywright.loop.analysis import LoopDetection
    from skywright.loop.camera import Camera
    from skywright.loop.sources.push import PushedPictures
    from skywright.services.dhs.face import Dhs
    from skywright.services.dhs.settings import DhsSettings

    settings = load_settings()
    parameters = _parameters(options, settings)
    begin_run = _catalog(options.name, parameters, settings)
    config = options.config
    numbers = DhsSettings(
        expected=config.expected,
        fps=config.video_fps,
        axis_row=config.axis_row,
        save_directory=options.save_directory,
        workers=AUTOML_WORKERS if parameters.get("backend") == "automl" else 1,
    )
    detector = LoopDetection(**parameters).detector
    source = PushedPictures(options.host, options.receiver_port)
    camera = Camera(source)
    dhs = Dhs(options.name, camera, detector, _fetch(options.snapshot_url), begin_run, numbers)
    serving = asyncio.create_task(dhs.run(*options.dcss))
    # DCSS allows 1 s for the handshake, a compiler takes longer.
    threading.Thread(target=detector.warm_up, name="warm-up", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    announce_ready(
        name=options.name,
        dcss="{}:{}".format(*options.dcss),
        receiver_port=source.port,
        recorded=begin_run is not None,
    )
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    camera.close()
    detector.close()


def _parameters(options: Options, settings: Settings) -> dict[str, Any]:
    """Return the parameters of the analysis `loop_detection`: what searches the pictures."""
    if not options.automl_url:
        return dict(settings.loop_detection)
    automl = options.config.automl
    threshold = automl.threshold if automl else None
    more = {} if threshold is None else {"threshold": threshold}
    return {"backend": "automl", "url": options.automl_url, **more}


def _fetch(url: str) -> "Fetch | None":
    """Return what fetches a picture of `url`; None without one."""
    if not url:
        return None
    from skywright.wire.axis_client import SNAPSHOT_PATH, camera_client, camera_url, get_snapshot

    address = camera_url(url, SNAPSHOT_PATH)

    async def fetch() -> bytes:
        async with camera_client(address, silence_s=SNAPSHOT_LIMIT_S) as client:
            return await get_snapshot(client, address, SNAPSHOT_LIMIT_S)

    return fetch


def _catalog(name: str, parameters: dict[str, Any], settings: Settings) -> "BeginRun | None":
    """Return what begins a run in the store's journal; None where there is no store."""
    if "store" not in settings.model_fields_set and not settings.directory.is_dir():
        return None
    from skywright.callbacks.journal import Journal
    from skywright.callbacks.series_run import SeriesRun
    from skywright.cli.up import check_directory
    from skywright.loop.found import LoopsFound
    from skywright.profile import run_metadata

    check_directory(settings)
    journal = Journal(settings.directory / "journal")
    common = {**run_metadata(settings), "dhs": name}

    def begin(metadata: Mapping[str, Any]) -> SeriesRun:
        return SeriesRun(
            LoopsFound(**parameters),
            journal,
            settings.directory / "assets",
            {**common, **metadata},
        )

    return begin

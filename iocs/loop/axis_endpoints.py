"""Further clients of the camera: its pictures over HTTP, and uploads while a trigger is open."""

import argparse
import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iocs.loop.axis_source import password_of
from iocs.loop.follow import follow_pv
from skywright.errors import ConfigError
from skywright.instruments.loop.camera import Camera
from skywright.processes.ports import port_number

if TYPE_CHECKING:  # a camera without these endpoints does not wait for their imports
    from skywright.instruments.loop.endpoints.axis_upload import Uploader
    from skywright.processes.http_server import HttpServer

logger = logging.getLogger(__name__)

TRIGGER = "VideoTrigger_RBV"


def add_endpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `make_endpoints` reads."""
    add = parser.add_argument
    add(
        "--http",
        type=port_number,
        help="port of an HTTP server with the addresses of an AXIS camera, 0 takes a free one",
    )
    add(
        "--auth",
        choices=["none", "basic", "digest"],
        default="none",
        help="authentication of --http",
    )
    add("--push-to", default="", metavar="URL", help="where pictures are uploaded")
    add(
        "--trigger",
        default="",
        metavar="PV",
        help=f"upload to --push-to while this is not 0 (the goniometer's {TRIGGER})",
    )


@dataclass(frozen=True)
class TriggeredUploads:
    """Uploads while a PV is not 0."""

    uploader: "Uploader"
    pv: str

    async def follow(self) -> None:
        """Follow the trigger for ever; a disconnected one counts as 0."""
        edges = asyncio.Queue[bool]()

        async def upload() -> None:
            while True:
                opened = await edges.get()
                try:
                    await asyncio.to_thread(self.uploader.trigger, opened)
                except Exception:  # a source that cannot start today may do so at the next edge
                    logger.exception("%s: no pictures go to %s", self.pv, self.uploader.url)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(upload())
            await follow_pv(
                self.pv,
                lambda data: edges.put_nowait(bool(data[0])),
                lambda: edges.put_nowait(False),
                connected=f"pictures go to {self.uploader.url} while {self.pv} is open",
            )

    def close(self) -> None:
        """End the uploads."""
        self.uploader.close()


def make_endpoints(
    camera: Camera, args: argparse.Namespace
) -> "tuple[HttpServer | None, TriggeredUploads | None, dict[str, Any]]":
    """Return the endpoints that the arguments request, and their part of the ready line.

    Raises
    ------
    ConfigError
        Naming the argument that cannot be used.
    """
    facts: dict[str, Any] = {}
    server = uploads = None
    if args.push_to:
        trigger = args.trigger or (args.goniometer and args.goniometer + TRIGGER)
        if not trigger:
            raise ConfigError("--push-to: name the PV that triggers it with --trigger")
        from skywright.instruments.loop.endpoints.axis_upload import Uploader

        uploads = TriggeredUploads(Uploader(camera, args.push_to), trigger)
    if args.http is not None:
        from skywright.instruments.loop.endpoints.axis_video import serve_video
        from skywright.wire.axis_guard import Guard

        guard = None
        if args.auth != "none":
            if not args.user:
                raise ConfigError(f"--auth {args.auth}: name who may look with --user")
            guard = Guard(args.auth, args.user, password_of(args))
        server = serve_video(camera, guard, args.host, args.http)
        facts["http"] = server.port
    return server, uploads, facts

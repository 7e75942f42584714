"""Further endpoints of the camera: its pictures over HTTP, and uploads while a trigger is open."""

import argparse
import asyncio
import logging
from typing import TYPE_CHECKING, Any

from caproto.asyncio.client import Context

from iocs.loop.axis_source import password_of
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


class TriggeredUploads:
    """Uploads while a PV is not 0.

    Parameters
    ----------
    uploader
        What uploads.
    pv
        Name of the trigger.
    """

    def __init__(self, uploader: "Uploader", pv: str) -> None:
        self.uploader, self.pv = uploader, pv

    async def follow(self) -> None:
        """Follow the trigger for ever; a disconnected one counts as 0."""
        loop, edges = asyncio.get_running_loop(), asyncio.Queue[bool]()

        def lost(pv: Any, state: str) -> None:
            if state == "disconnected":
                loop.call_soon_threadsafe(edges.put_nowait, False)

        async def watch(pv: Any) -> None:
            async for event in pv.subscribe():
                edges.put_nowait(bool(event.data[0]))

        async with Context() as context:
            (pv,) = await context.get_pvs(self.pv, timeout=None, connection_state_callback=lost)
            await pv.wait_for_connection(timeout=None)
            logger.info("pictures go to %s while %s is open", self.uploader.url, self.pv)
            watching = asyncio.create_task(watch(pv))
            try:
                while True:
                    opened = await edges.get()
                    try:
                        await asyncio.to_thread(self.uploader.trigger, opened)
                    except Exception:  # a source that cannot start today may do so at the next edge
                        logger.exception("%s: no pictures go to %s", self.pv, self.uploader.url)
            finally:
                watching.cancel()

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
        from skywright.processes.http_guard import Guard

        guard = None
        if args.auth != "none":
            if not args.user:
                raise ConfigError(f"--auth {args.auth}: name who may look with --user")
            guard = Guard(args.auth, args.user, password_of(args))
        server = serve_video(camera, guard, args.host, args.http)
        facts["http"] = server.port
    return server, uploads, facts

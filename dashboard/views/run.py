"""One run: how it went, what came of it, its pictures, and export."""

import asyncio
import io
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from tiled.client.container import Container

from dashboard.plots import Plot, abscissas, choose, draw_plot, plottable
from dashboard.site import render, site_of
from dashboard.views import View
from skywright.config import Settings
from skywright.errors import ConfigError, DataError
from skywright.processes.scratch import scratch
from skywright.store.client import connect
from skywright.store.export import FORMATS, SUFFIXES, export_run
from skywright.store.lookup import JournalListing, find_run
from skywright.store.pictures import holds_frames, read_frame
from skywright.store.show import RunView, view_run

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
QUALITY = 90
_exporting = asyncio.Semaphore(2)


@dataclass(frozen=True)
class Frames:
    """The frames of one camera in one stream."""

    stream: str
    key: str
    count: int


async def run(request: Request) -> Response:
    """Show a run."""
    site, name = site_of(request), request.path_params["name"]
    view, late = await site.catalog.ask_soon(find_view, name, site.settings.journals)
    if view is None:
        raise ConfigError(late)
    choice, plot, wrong = choose(view, request.query_params), None, late
    if choice is not None:
        plot, why = await site.catalog.try_ask(draw_plot, view.summary.uid, choice)
        wrong = late or why
    return render(
        request,
        "run.html",
        503 if late else 200,
        run=view,
        wrong=wrong,
        choice=choice,
        plot=plot or Plot(None),
        plottable=plottable,
        abscissas=abscissas,
        frames=frames_of(view),
        formats=FORMATS,
    )


async def picture(request: Request) -> Response:
    """Send a picture that an analysis of the run has drawn."""
    site, asked = site_of(request), request.path_params
    view = await site.catalog.ask(find_view, asked["name"], site.settings.journals)
    drawn = next((each.pictures for each in view.analyses if each.summary.uid == asked["uid"]), ())
    if asked["number"] >= len(drawn):
        raise DataError(f"analysis {asked['uid'][:8]} has drawn {len(drawn)} pictures")
    return FileResponse(checked_picture(drawn[asked["number"]], site.settings))


async def frame(request: Request) -> Response:
    """Send a frame of the run as JPEG."""
    site, asked = site_of(request), request.path_params
    jpeg = await site.catalog.ask_anew(
        encoded_frame, asked["name"], asked["stream"], asked["key"], asked["row"]
    )
    return Response(jpeg, media_type="image/jpeg")


async def export(request: Request) -> Response:
    """Send the run as a file: NeXus, or a ZIP of the CSV or Zarr directory."""
    site, asked = site_of(request), request.path_params
    if asked["format"] not in FORMATS:
        raise DataError(f"export {asked['format']}: expected one of {', '.join(FORMATS)}")
    with ExitStack() as directories:
        directory = directories.enter_context(scratch("export"))
        async with _exporting:
            file = await asyncio.to_thread(
                exported_file, site.settings, asked["name"], asked["format"], directory
            )
        return _RemovedFile(file, directories.pop_all())


class _RemovedFile(FileResponse):
    """Remove the file's directory when it is sent, or when it cannot be.

    A background task would not run where the request asks for a part that the file does not have.
    """

    def __init__(self, file: Path, directories: ExitStack) -> None:
        super().__init__(file, filename=file.name)
        self._directories = directories

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._directories:
            await super().__call__(scope, receive, send)


def find_view(client: Container, name: str, journals: Path) -> RunView:
    """Return what there is to show of the run that `name` names."""
    listing = JournalListing(journals)
    return view_run(client, find_run(client, name), listing)


def frames_of(view: RunView) -> list[Frames]:
    """Return which columns of the run are pictures; one without rows has none to show."""
    return [
        Frames(stream.name, column.name, column.shape[0])
        for stream in view.streams
        for column in stream.columns
        if holds_frames(column) and column.shape[0]
    ]


def encoded_frame(client: Container, name: str, stream: str, key: str, row: int) -> bytes:
    """Read a frame and return it as JPEG."""
    buffer = io.BytesIO()
    pixels = read_frame(find_run(client, name), stream, key, row)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def checked_picture(path: Path, settings: Settings) -> Path:
    """Return the path if it is a picture among the assets.

    A run's documents name the path, and whoever may write runs may write any.

    Raises
    ------
    DataError
        If it is none, or not on this machine.
    """
    path = Path(os.path.realpath(path))  # Path.resolve raises an error for a link to itself
    roots = (settings.assets, *settings.store.readable)
    if path.suffix.lower() not in PICTURE_SUFFIXES or not any(
        path.is_relative_to(root.expanduser().resolve()) for root in roots
    ):
        raise DataError(
            f"{path}: not a picture below store.directory/assets or store.readable of this machine"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file on this machine")
    return path


def exported_file(settings: Settings, name: str, format: str, directory: Path) -> Path:
    """Export a run below `directory`, with a client of its own: it may take long."""
    client = connect(settings=settings)
    listing, run = JournalListing(settings.journals), find_run(client, name)
    uid = run.metadata["start"]["uid"]
    output = directory / f"{uid[:8]}{SUFFIXES[format]}"
    export_run(run, output, format, listing=listing)
    if output.is_file():
        return output
    archive = directory / f"{uid[:8]}-{format}"
    return Path(shutil.make_archive(str(archive), "zip", directory, output.name))


VIEW = View(
    path="/runs/-1",
    title="",
    routes=[
        Route("/runs/{name}", run),
        Route("/runs/{name}/pictures/{uid}/{number:int}", picture),
        Route("/runs/{name}/frames/{stream}/{key}/{row:int}.jpg", frame),
        Route("/runs/{name}/export/{format}", export),
    ],
)

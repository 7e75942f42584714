"""EPU, live: the atlas with its squares, one square with its holes, counts, troubles, runs."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tiled.client.container import Container

from dashboard.chart import CIVIDIS
from dashboard.feeds import Source
from dashboard.site import Site, render, site_of
from dashboard.views import View
from dashboard.worker import worker_messages
from skywright.errors import SkywrightError
from skywright.store.lookup import RunSummary, Wanted, find_runs

IOC = "epu"
"""The IOC of the watcher, and the name of its feed."""
SIDE, EDGE = 400, 12
SHOWN, NEXT = 8, 6

Place = Sequence[Any]
"""Of a square or hole: id, x, y in px, micrographs, share of good ones or None."""


@dataclass
class EpuBoard:
    """The watched directory as the page shows it.

    Attributes
    ----------
    facts
        Fields of `devices.epu.view.EpuFacts`; empty before the first message.
    status
        What is wrong, if the IOC is not connected.
    number
        Grows with each message; no number of an earlier server.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    status: str = "waiting for the IOC of EPU"
    number: int = field(default_factory=time.time_ns)

    async def changes(self, messages: AsyncIterator[bytes]) -> AsyncIterator[str]:
        """Take in the worker's messages, and yield `number` after each."""
        async for message in messages:
            self.take(message)
            yield str(self.number)

    def take(self, message: bytes) -> None:
        """Take in a message of `dashboard.epu.epu_worker`."""
        header = json.loads(message.partition(b"\n")[0])
        self.number += 1
        self.status = "" if header["connected"] else header["status"]
        if header["connected"]:
            self.facts = header


async def epu(request: Request) -> Response:
    """Show the grid that is taken now, and the latest runs."""
    site = site_of(request)
    board = board_of(site)
    runs: Sequence[RunSummary] = []
    wrong = ""
    try:
        runs = await site.catalog.ask(newest_runs, SHOWN)
    except SkywrightError as error:  # the directory is shown all the same
        wrong = str(error)
    grid = board.facts.get("overview", {})
    suggestion = board.facts.get("suggestion", {})
    return render(
        request,
        "dashboard.epu:epu.html",
        configured=IOC in site.settings.iocs,
        board=board,
        facts=board.facts,
        grid=grid,
        atlas=draw_places(grid.get("squares", []), grid.get("current", ""), "square"),
        holes=draw_places(grid.get("holes", []), "", "hole"),
        scale=draw_scale(),
        suggestion=suggestion,
        next_squares=suggestion.get("squares", [])[:NEXT],
        runs=runs,
        wrong=wrong,
    )


def color(share: float) -> str:
    """Return the color of a share, 0 to 1, which people with every kind of color vision see."""
    place = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    low = min(int(place), len(CIVIDIS) - 2)
    part = place - low
    mixed = (a + (b - a) * part for a, b in zip(CIVIDIS[low], CIVIDIS[low + 1], strict=True))
    return "rgb({:.0f},{:.0f},{:.0f})".format(*mixed)


def draw_places(places: Sequence[Place], current: str, kind: str) -> Markup | None:
    """Draw squares of an atlas or holes of a square, colored by their share of good micrographs.

    Those without micrographs are outlines, those without results are gray; `current` has a frame.
    None if no place is known.
    """
    known = [each for each in places if each[1] is not None and each[2] is not None]
    if not known:
        return None
    xs, ys = [each[1] for each in known], [each[2] for each in known]
    width = max(max(xs) - min(xs), max(ys) - min(ys), 1.0)
    scale = (SIDE - 4 * EDGE) / width
    size = max(2.0, min(11.0, 0.3 * SIDE / len(known) ** 0.5))
    marks = []
    for name, x, y, count, share in known:
        fill = "none" if not count else "var(--line)" if share is None else color(share)
        good = "no results yet" if share is None else f"{share:.0%} good"
        text = f"{kind} {name}: {count} micrographs, {good}" if count else f"{kind} {name}"
        stroke = "var(--a)" if name == current else "var(--faint)"
        radius = 0 if kind == "square" else size
        shape = (
            f'x="{2 * EDGE + (x - min(xs)) * scale - size:.1f}" '
            f'y="{2 * EDGE + (y - min(ys)) * scale - size:.1f}" '
            f'width="{2 * size:.1f}" height="{2 * size:.1f}" rx="{radius:.1f}" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="{3 if name == current else 1}"'
        )
        marks.append(f"<rect {shape}><title>{escape(text)}</title></rect>")
    label = "the atlas with its squares" if kind == "square" else "the present square's holes"
    return Markup(
        f'<svg class="places" viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{label}">'
        f"{''.join(marks)}</svg>"
    )


def draw_scale() -> Markup:
    """Draw the colors from 0 to 1; the page's policy forbids styles in its text."""
    steps = [
        f'<rect x="{16 * n}" width="16" height="12" fill="{color(n / 7)}"></rect>' for n in range(8)
    ]
    return Markup(f'<svg class="scale" viewBox="0 0 128 12">{"".join(steps)}</svg>')


def board_of(site: Site) -> EpuBoard:
    """Return what the page keeps of the watched directory."""
    board: EpuBoard = site.live.setdefault(IOC, EpuBoard())
    return board


def newest_runs(client: Container, limit: int) -> list[RunSummary]:
    """Return the newest runs, newest first."""
    return list(find_runs(client, Wanted(plan="track_epu"), limit))


def feeds(site: Site) -> dict[str, Source]:
    """Return the feed of the watcher, where there is one."""
    if IOC not in site.settings.iocs:
        return {}
    messages = partial(worker_messages, site.settings, IOC, "dashboard.epu.epu_worker")
    return {IOC: lambda: board_of(site).changes(messages())}


VIEW = View(path="/epu", title="EPU", routes=[Route("/epu", epu)], feeds=feeds, order=40)

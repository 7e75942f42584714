"""PANOSETI, live: the newest images of all modules, their rates, and flash candidates of runs."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tiled.client.container import Container

from dashboard.chart import Curve, Marks, draw_chart, style_of
from dashboard.color_map import color_limits, false_color_png
from dashboard.live_board import LiveBoard, LiveIoc
from dashboard.recent_runs import newest_results
from dashboard.site import Site, png_response, render, site_of
from dashboard.views import View
from skywright.callbacks.derived import RESULT
from skywright.instruments.panoseti.slots import configured_slots
from skywright.store.export.contents import read_contents
from skywright.store.lookup import RunSummary, find_run
from skywright.store.show import final_results

ANALYSIS = "panoseti_flashes"
RUNS_MAX = 8
OVER = ("success", "fail", "abort", "interrupted")
"""Status of runs that are whole in the catalog."""
WINDOW_S, BINS = 600.0, 75
"""Time and bins of the distribution of largest pixels."""


@dataclass
class PanosetiBoard(LiveBoard):
    """The modules as the page shows them: messages of `dashboard.panoseti.pano_worker`.

    Attributes
    ----------
    pixels
        (side, side) int32 by slot and product.
    largest
        Time, module and largest pixel of the pulse-height images of the last `WINDOW_S`.
    final
        Results of the shown searches for flashes that are over, by uid: they change no more.
    """

    status: str = "waiting for the IOC of PANOSETI"
    pixels: dict[tuple[int, str], NDArray[np.int32]] = field(default_factory=dict)
    largest: deque[tuple[float, int, int]] = field(default_factory=deque)
    final: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _seen: dict[tuple[int, str], float] = field(default_factory=dict)
    """Sequence of the image that was taken in last."""

    def take_data(self, data: bytes) -> None:
        """Take in the images."""
        begin, now = 0, self.clock()
        for image in self.facts["images"]:
            key, side = (image["slot"], image["product"]), image["side"]
            end = begin + 4 * side * side
            self.pixels[key] = np.frombuffer(data[begin:end], "<i4").reshape(side, side)
            begin = end
            if key[1].startswith("ph") and self._seen.get(key) != image["sequence"]:
                self.largest.append((now, image["module"], int(self.pixels[key].max())))
            self._seen[key] = image["sequence"]
        while self.largest and now - self.largest[0][0] > WINDOW_S:
            self.largest.popleft()

    def colors_of(self, image: Mapping[str, Any]) -> str:
        """Return the values of an image that get the first and the last color, and their unit."""
        product = image["product"]
        low, high = color_limits(self.pixels[image["slot"], product])
        return f"{low:.4g} to {high:.4g} {'ADC' if product.startswith('ph') else 'counts'}"


def _worker_arguments(site: Site) -> tuple[str, ...]:
    return "--modules", str(configured_slots(site.settings))


IOC = LiveIoc("panoseti", "dashboard.panoseti.pano_worker", PanosetiBoard, _worker_arguments)


async def panoseti(request: Request) -> Response:
    """Show the modules, and the latest runs with their candidates."""
    site = site_of(request)
    board = IOC.board_of(site)
    flashes, wrong = await newest_flashes(site, board)
    return render(
        request,
        "dashboard.panoseti:panoseti.html",
        **IOC.context(site),
        images=[each | {"colors": board.colors_of(each)} for each in board.facts.get("images", [])],
        largest=draw_largest(board),
        flashes=flashes,
        wrong=wrong,
    )


def draw_largest(board: PanosetiBoard) -> Markup | None:
    """Draw the distribution of the largest pixels of each module; None if there are none."""
    if not board.largest:
        return None
    modules, values = np.array([entry[1:] for entry in board.largest]).T
    edges = np.linspace(values.min() - 0.5, values.max() + 0.5, BINS + 1)
    centers = (edges[1:] + edges[:-1]) / 2
    marks, curves = [], []
    for number, module in enumerate(np.unique(modules)):
        density, _ = np.histogram(values[modules == module], edges, density=True)
        label = f"{module} ({np.count_nonzero(modules == module)})"
        style, is_square = style_of(number)
        filled = density > 0
        curves.append(Curve(centers, density, style))
        marks.append(Marks(label, centers[filled], density[filled], style, is_square))
    return draw_chart(
        marks, curves, "largest pixel, ADC", "density", "Distribution of the largest pixels"
    )


async def image(request: Request) -> Response:
    """Return the newest image of a slot and product as a PNG file."""
    board = IOC.board_of(site_of(request))
    key = (int(request.path_params["slot"]), request.path_params["product"])
    if key not in board.pixels:
        raise HTTPException(404, "no image of this module and product yet")
    return png_response(false_color_png(board.pixels[key]))


async def newest_flashes(
    site: Site, board: PanosetiBoard
) -> tuple[list[tuple[RunSummary, Mapping[str, Any]]] | None, str]:
    """Return the searches for flashes in the newest runs with their results, newest first.

    Returns
    -------
    searches, wrong
        None, and why, if they cannot be read.
    """
    ask, journals = site.catalog.try_ask, site.settings.journals
    runs, wrong = await ask(newest_results, ANALYSIS, RUNS_MAX, journals)
    flashes: list[tuple[RunSummary, Mapping[str, Any]]] = []
    for each in runs or []:
        results = board.final.get(each.uid)
        if results is None:
            results, wrong = await ask(read_results, each.uid)
        if results is None:
            return None, wrong
        flashes.append((each, results))
    board.final = {each.uid: found for each, found in flashes if each.status in OVER}
    return (None if runs is None else flashes), wrong


def read_results(client: Container, uid: str) -> Mapping[str, Any]:
    """Return the last results of a search for flashes."""
    return final_results(read_contents(find_run(client, uid), only=(RESULT,)))


ROUTES: Sequence[Route] = [
    Route("/panoseti", panoseti),
    Route("/panoseti/image/{slot:int}/{product}", image),
]
VIEW = View(path="/panoseti", title="PANOSETI", routes=ROUTES, feeds=IOC.feeds, order=50)

"""The spectrometer, live: spectrum, waterfall, trend of the fits, counts; and its latest runs."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tiled.client.container import Container

from dashboard.chart import Curve, Marks, draw_chart
from dashboard.feeds import Source
from dashboard.psss.spectra import SpectrumBoard
from dashboard.site import Site, render, site_of
from dashboard.views import View
from dashboard.worker import worker_messages
from skywright.errors import SkywrightError
from skywright.store.lookup import RunSummary, Wanted, find_runs

IOC = "psss"
"""The IOC of the spectrometer, and the name of its feed."""
PLANS = (
    *("acquire_spectra", "scan_spectra", "optimize_spectrum"),
    *("take_background", "calibrate_energy_axis"),
)
SHOWN = 8
RUNS = "psss runs"


async def psss(request: Request) -> Response:
    """Show what the spectrometer sees, and its latest runs."""
    site = site_of(request)
    board = board_of(site)
    runs: Sequence[RunSummary] = []
    wrong = ""
    try:
        runs = await runs_of(site)
    except SkywrightError as error:  # the spectrometer is shown all the same
        wrong = str(error)
    return render(
        request,
        "dashboard.psss:psss.html",
        configured=IOC in site.settings.iocs,
        board=board,
        facts=board.facts,
        unit="eV" if board.facts.get("unit") == "EV" else "px",
        charts=draw_spectra(board),
        trends=draw_trends(board),
        waterfall=board.waterfall(),
        has_average=bool(np.isfinite(board.average).any()),
        figure=figure,
        runs=runs,
        wrong=wrong,
    )


def figure(value: float | None, error: float | None, unit: str) -> str:
    """Return a figure with its error, to two digits of that; a dash where there is none."""
    if value is None:
        return "–"
    if not error or not math.isfinite(error):
        return f"{value:.6g} {unit}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f} {unit}"


def board_of(site: Site) -> SpectrumBoard:
    """Return what the page keeps of the spectrometer."""
    board: SpectrumBoard = site.live.setdefault(IOC, SpectrumBoard())
    return board


async def runs_of(site: Site) -> Sequence[RunSummary]:
    """Return the newest runs; the catalog is asked only when it has changed, not at each pulse."""
    number, runs = site.live.get(RUNS, (None, []))
    if number != site.catalog.number:
        number = site.catalog.number
        runs = await site.catalog.ask(newest_runs, SHOWN)
        site.live[RUNS] = number, runs
    return list(runs)


def newest_runs(client: Container, limit: int) -> list[RunSummary]:
    """Return the newest runs of the spectrometer's plans, newest first."""
    found = [run for plan in PLANS for run in find_runs(client, Wanted(plan=plan), limit)]
    return sorted(found, key=lambda run: run.time_s, reverse=True)[:limit]


def draw_spectra(board: SpectrumBoard) -> list[Markup]:
    """Draw the newest spectrum with the average behind it; nothing before the first."""
    if not len(board.y):
        return []
    unit = "photon energy, eV" if board.facts.get("unit") == "EV" else "column, px"
    curves = [Curve(board.x, board.y, "a"), Curve(board.x, board.average, "b")]
    return [draw_chart([], curves, unit, "counts", "Spectrum of the newest pulse and the average")]


def draw_trends(board: SpectrumBoard) -> list[Markup]:
    """Draw center and width of the fits over the last minutes."""
    seconds, centers, widths = board.trend
    unit = "eV" if board.facts.get("unit") == "EV" else "px"
    charts = []
    for label, values, style in (("center", centers, "a"), ("FWHM", widths, "b")):
        if (values == values).any():
            marks = [Marks(label, seconds, values, style, square=label == "FWHM")]
            title = f"{label} of the fits over time"
            charts.append(draw_chart(marks, [], "seconds", f"{label}, {unit}", title))
    return charts


def feeds(site: Site) -> dict[str, Source]:
    """Return the spectrometer's feed, where there is one."""
    if IOC not in site.settings.iocs:
        return {}
    messages = partial(worker_messages, site.settings, IOC, "dashboard.psss.spectrum_worker")
    return {IOC: lambda: board_of(site).changes(messages())}


VIEW = View(path="/psss", title="PSSS", routes=[Route("/psss", psss)], feeds=feeds, order=30)

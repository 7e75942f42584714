"""The spectrometer, live: spectrum, waterfall, trend of the fits, counts; and its latest runs."""

import math

import numpy as np
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dashboard.chart import Curve, Marks, Rows, draw_chart
from dashboard.live_board import LiveIoc
from dashboard.psss.spectra import SpectrumBoard
from dashboard.recent_runs import recent_runs
from dashboard.site import render, site_of
from dashboard.views import View

IOC = LiveIoc("psss", "dashboard.psss.spectrum_worker", SpectrumBoard)
PLANS = (
    *("acquire_spectra", "scan_spectra", "optimize_spectrum"),
    *("take_background", "calibrate_energy_axis"),
)


async def psss(request: Request) -> Response:
    """Show the newest data of the spectrometer and its latest runs."""
    site = site_of(request)
    board = IOC.board_of(site)
    return render(
        request,
        "dashboard.psss:psss.html",
        **IOC.context(site),
        unit="eV" if board.facts.get("unit") == "EV" else "px",
        charts=draw_spectra(board),
        trends=draw_trends(board),
        has_average=bool(np.isfinite(board.average).any()),
        figure=figure,
        recent=await recent_runs(site, PLANS),
    )


def figure(value: float | None, error: float | None, unit: str) -> str:
    """Return a figure and its error, with two digits of the error; a dash without a figure."""
    if value is None:
        return "–"
    if not error or not math.isfinite(error):
        return f"{value:.6g} {unit}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f} {unit}"


def draw_spectra(board: SpectrumBoard) -> list[Markup]:
    """Draw the newest spectrum and the average; nothing before the first spectrum."""
    if not len(board.y):
        return []
    unit = "photon energy, eV" if board.facts.get("unit") == "EV" else "column, px"
    curves = [Curve(board.x, board.y, "a"), Curve(board.x, board.average, "b")]
    title = "Spectrum of the newest pulse and the average, and below the last spectra"
    rows = None
    if len(board.x) > 1 and np.isfinite(board.x).all():
        label = "last spectra, newest on top; brighter is more light"
        rows = Rows(board.waterfall(), board.x, label)
    return [draw_chart([], curves, unit, "counts", title, rows)]


def draw_trends(board: SpectrumBoard) -> list[Markup]:
    """Draw center and width of the fits over the last minutes."""
    seconds, centers, widths = board.trend
    unit = "eV" if board.facts.get("unit") == "EV" else "px"
    charts = []
    for label, values, style in (("center", centers, "a"), ("FWHM", widths, "b")):
        if np.isfinite(values).any():
            marks = [Marks(label, seconds, values, style, square=label == "FWHM")]
            title = f"{label} of the fits over time"
            charts.append(
                draw_chart(marks, [], "time from the newest pulse, s", f"{label}, {unit}", title)
            )
    return charts


VIEW = View(path="/psss", title="PSSS", routes=[Route("/psss", psss)], feeds=IOC.feeds, order=30)

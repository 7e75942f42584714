"""Shots, live: regions drawn on the mean image, curves against the delay, scatter plots, counts."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dashboard.chart import Curve, Marks, draw_chart, style_of
from dashboard.color_map import false_color_png
from dashboard.live_board import LiveIoc
from dashboard.recent_runs import recent_runs
from dashboard.sacla.board import ShotBoard, array_of
from dashboard.site import Site, check_may_operate, png_response, render, site_of
from dashboard.views import View
from skywright.instruments.sacla.mean_images import (
    PixelHistogram,
    autocorrelation,
    center_of_mass,
    linear_histogram,
    log_histogram,
)

PLANS = ("acquire_shots", "delay_scan", "find_time_zero")
BODY_BYTES = 32_768
AXES = {
    "delay": "the delay, ps",
    "stage": "the delay of the stage, ps",
    "timing": "the timing tool, px",
    "i0": "I0, V",
    "motor": "the motor",
}


def _worker_arguments(site: Site) -> tuple[str, ...]:
    section = site.settings.sacla
    return "--period", str(section.plot_every), "--shots", str(section.ngrab)


IOC = LiveIoc("sacla", "dashboard.sacla.shots_worker", ShotBoard, _worker_arguments)
CURVES = (
    ("laser on - off", {"diff": "difference"}),
    ("sum / I0", {"on_mean": "laser on", "off_mean": "laser off"}),
    ("sum of sums / sum of I0", {"on_ratio": "laser on", "off_ratio": "laser off"}),
)
"""What is drawn of each region against the delay: the label, and the legend of each curve."""
VALUE_BINS, SHOTS_MIN = 40, 10
"""Bins of the histograms of values; least number of shots for a correlation."""
TAGS_SHOWN = 10_000
"""Shots from longer ago, before a pause, would squeeze the newest ones in the plot over the tag. So
would those of a run before whose tags were higher."""


async def sacla(request: Request) -> Response:
    """Show the shots, and their latest runs."""
    site = site_of(request)
    board = IOC.board_of(site)
    return render(
        request,
        "dashboard.sacla:sacla.html",
        **IOC.context(site),
        **draw_all(board),
        recent=await recent_runs(site, PLANS),
    )


def draw_all(board: ShotBoard) -> Mapping[str, Any]:
    """Return the charts of the newest message; they are drawn once for all who look."""
    if board.charts[0] != board.number:
        board.charts = (
            board.number,
            {
                "curves": draw_curves(board.curve_facts),
                "are_earlier": board.curve_facts is not board.facts,
                "scatter": draw_scatter(board),
                "histogram": draw_histogram(board) + draw_values(board),
            },
        )
    return board.charts[1]


async def now(request: Request) -> Response:
    """Return what the drawing needs: the geometry of the image, and the regions on it."""
    site = site_of(request)
    board = IOC.board_of(site)
    facts = board.facts
    return JSONResponse(
        {
            "number": board.number,
            "status": board.status,
            "regions": facts.get("regions", ""),
            "outlines": facts.get("outlines", {}),
            "detectors": facts.get("detectors", ""),
            "region": facts.get("shown_region", ""),
            "center": facts.get("center"),
            "mass": mass_of(board),
            "detector": facts.get("shown_detector", ""),
            "step": facts.get("step", 1),
            "shape": list(board.image.shape),
            "shots": facts.get("image_shots", 0),
            "colors": [f"{value:.4g}" for value in board.colors],
            "operate": site.operate,
        },
        headers={"Cache-Control": "no-store"},
    )


async def mean_image(request: Request) -> Response:
    """Return the mean image as a PNG file."""
    return png_response(false_color_png(_image(request)))


def _image(request: Request) -> np.ndarray:
    board = IOC.board_of(site_of(request))
    if not board.image.size:
        raise HTTPException(404, "no mean image yet")
    return board.image


def mass_of(board: ShotBoard) -> list[float] | None:
    """Return the center of mass of the mean image, x and y in pixels of the detector."""
    step = board.facts.get("step", 1)
    found = [step * position + (step - 1) / 2 for position in center_of_mass(board.image)]
    return [round(position, 2) for position in found] if np.isfinite(found).all() else None


async def autocorrelation_image(request: Request) -> Response:
    """Return the autocorrelation of the mean image as a PNG file; no shift is in the middle."""
    found = await asyncio.to_thread(autocorrelation, _image(request))
    return png_response(false_color_png(found.astype(np.float32)))


class OperateRequest(BaseModel):
    """What a page asks for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    add: Annotated[str, Field(pattern=r"^[^\s:]+:[^\s:]+$")] | None = None
    """A region: ``DETECTOR:x,y;x,y;...``."""
    remove: Annotated[str, Field(pattern=r"^[^\s:]+$")] | None = None
    """Name of a region."""
    show: Annotated[str, Field(pattern=r"^[^\s:,]+$")] | None = None
    """Id of the detector whose images are shown."""
    plot: Annotated[str, Field(pattern=r"^[^\s:]+$")] | None = None
    """Name of the region whose single shots are plotted."""
    reset: bool = False
    """Begin curves and images anew."""
    run: bool | None = None
    """Take shots, or stop."""


async def put(request: Request) -> Response:
    """Change regions, choose what is shown, take shots or stop, or begin everything anew."""
    check_may_operate(request)
    body = await request.body()
    if len(body) > BODY_BYTES:
        raise HTTPException(413, f"more than {BODY_BYTES} bytes")
    try:
        asked = OperateRequest.model_validate_json(body).model_dump_json(exclude_none=True)
    except ValidationError as error:
        raise HTTPException(
            400, f"expected JSON with add, remove, show, plot, reset or run: {error}"
        ) from None
    site = site_of(request)
    answer = await site.operator(IOC.name, "dashboard.sacla.operate_worker").ask(asked)
    board = IOC.board_of(site)
    if board.facts and "regions" in answer:  # the next message with them comes later
        board.facts = {**board.facts, "regions": answer["regions"]}
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def draw_values(board: ShotBoard) -> list[tuple[str, Markup]]:
    """Draw how many of the recent shots have which I0, and which sum over the plotted region."""
    charts = []
    for key, name, unit in (("i0", "I0", "V"), ("sum", plotted_region(board), "eV")):
        values = board.array("recent", key)
        values = values[np.isfinite(values)]
        if not name or len(values) < 2:
            continue
        found = linear_histogram(values, VALUE_BINS)
        title = f"{name} of the last {len(values)} analyzed shots: mean {found.mean:.4g} {unit}, "
        title += f"standard deviation {found.std:.2g} {unit}"
        charts.append(_histogram_chart(title, found, f"{name}, {unit}"))
        if key == "sum" and (values > 0).any():
            logarithmic = log_histogram(values, VALUE_BINS)
            edges = np.log10(logarithmic.edges)
            title = f"{name} of the same shots, logarithmic bins; {logarithmic.below} at or below 0"
            charts.append(
                _histogram_chart(
                    title, replace(logarithmic, edges=edges), f"log10 of {name}, {unit}"
                )
            )
    return charts


def _histogram_chart(title: str, found: PixelHistogram, axis: str) -> tuple[str, Markup]:
    centers = (found.edges[1:] + found.edges[:-1]) / 2
    marks = [Marks("shots", centers, found.counts.astype(float), "a")]
    return title, draw_chart(marks, [], axis, "shots", title)


def correlation(x: Any, y: Any) -> str:
    """Return the correlation of two values, as text; empty where it is not defined."""
    good = np.isfinite(x) & np.isfinite(y)
    if good.sum() < SHOTS_MIN or np.ptp(x[good]) == 0 or np.ptp(y[good]) == 0:
        return ""
    return f", r = {np.corrcoef(x[good], y[good])[0, 1]:.3f} without laser"


def region_names(facts: Mapping[str, Any]) -> list[str]:
    """Return the names of the regions, in the order of the curves."""
    return [each.partition(":")[0] for each in str(facts.get("regions", "")).split()]


def draw_curves(facts: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Draw for each region the difference by bins, with errors, and both sides."""
    edges = array_of(facts, "edges")
    axis = AXES.get(str(facts.get("binned_by", "delay")), "the motor")
    if len(edges) < 2:
        return []
    centers = (edges[1:] + edges[:-1]) / 2
    found = {key: array_of(facts, "curves", key) for _, shown in CURVES for key in shown}
    errors = {key: array_of(facts, "curves", f"{key.removesuffix('_mean')}_sem") for key in found}
    charts = []
    for k, name in enumerate(region_names(facts)):
        if any(len(each) <= k for each in (*found.values(), *errors.values())):
            continue
        for label, shown in CURVES:
            marks, bars = [], []
            for key, legend in shown.items():
                style = "b" if key.startswith("off") else "a"
                y, sem = found[key][k], errors[key][k]
                marks += with_errors(legend, centers, y, sem, style)
                bars.append(error_bars(centers, y, sem, style))
            if any(np.isfinite(each.y).any() for each in marks):
                title = f"{name}: {label} against {axis.partition(',')[0]}"
                chart = draw_chart(marks, bars, axis, f"{label}, eV/V", title)
                charts.append((title, chart))
    return charts


def with_errors(legend: str, x: Any, y: Any, error: Any, style: str) -> list[Marks]:
    """Return marks of points; those of which no error is known, as of a single shot, are open.

    They would look like the most precise ones.
    """
    known, square = np.isfinite(error), style == "b"
    marks = [Marks(legend, x[known], y[known], style, square)]
    alone = ~known & np.isfinite(y)
    if alone.any():
        label = f"{legend}, error not known"
        marks.append(Marks(label, x[alone], y[alone], f"{style} open", square))
    return marks


def error_bars(x: Any, y: Any, error: Any, style: str) -> Curve:
    """Return vertical lines of one standard error up and down."""
    gap = np.full(len(x), np.nan)
    return Curve(
        np.stack([x, x, gap], axis=1).ravel(),
        np.stack([y - error, y + error, gap], axis=1).ravel(),
        style,
    )


def plotted_region(board: ShotBoard) -> str:
    """Return the name of the region whose single shots are plotted."""
    return str(board.facts.get("shown_region", ""))


def draw_scatter(board: ShotBoard) -> list[tuple[str, Markup]]:
    """Draw a region against I0 and against the tag."""
    name = plotted_region(board)
    recent = {key: board.array("recent", key) for key in ("tag", "i0", "laser_on", "sum")}
    if not name or not len(recent["tag"]):
        return []
    is_on = recent["laser_on"] > 0.5
    tags_ago = recent["tag"] - recent["tag"][-1]
    tags_ago[(tags_ago < -TAGS_SHOWN) | (tags_ago > 0)] = np.nan
    charts = []
    for title, x, label in (
        (
            f"{name} against I0" + correlation(recent["i0"][~is_on], recent["sum"][~is_on]),
            recent["i0"],
            "I0, V",
        ),
        (f"{name} against the tag", tags_ago, "tag, from the newest"),
    ):
        marks = [
            Marks(legend, x[side], recent["sum"][side], style, square=style == "b")
            for legend, side, style in (("laser on", is_on, "a"), ("laser off", ~is_on, "b"))
        ]
        if any(len(each.x) for each in marks):
            charts.append((title, draw_chart(marks, [], label, "sum, eV", title)))
    return charts


def draw_histogram(board: ShotBoard) -> list[tuple[str, Markup]]:
    """Draw how many pixels of each region have 0, 1 ... photons, as powers of ten."""
    counts = board.array("photon_hist")
    names = region_names(board.facts)
    if counts.ndim != 2 or not len(counts) or not names or not (counts > 0).any():
        return []
    with np.errstate(divide="ignore"):
        logs = np.where(counts > 0, np.log10(counts), np.nan)
    marks = [
        Marks(name, np.arange(8.0), row, *style_of(k))
        for k, (name, row) in enumerate(zip(names, logs, strict=False))
    ]
    title = "pixels by their photons (7: 7 and more)"
    rates = zip(names, board.array("hit_rate"), strict=False)
    shown = [f"{name} {100 * rate:.1f} %" for name, rate in rates if np.isfinite(rate)]
    title += f"; hit rate: {', '.join(shown)}" if shown else ""
    return [(title, draw_chart(marks, [], "photons", "log10 of pixels", title))]


VIEW = View(
    path="/sacla",
    title="SACLA",
    routes=[
        Route("/sacla", sacla),
        Route("/sacla/now", now),
        Route("/sacla/mean.png", mean_image),
        Route("/sacla/autocorrelation.png", autocorrelation_image),
        Route("/sacla/put", put, methods=["POST"]),
    ],
    feeds=IOC.feeds,
    order=60,
    static=Path(__file__).parent / "static",
)

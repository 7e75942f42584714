"""The loop: the live camera with what the detector finds, and the rotations with their fits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tiled.client.container import Container

from dashboard.chart import Curve, Marks, draw_chart
from dashboard.feeds import FeedSource
from dashboard.loop.series import newest_series, read_columns
from dashboard.recent_runs import newest_results
from dashboard.site import Site, render, site_of
from dashboard.views import View
from dashboard.worker import worker_messages
from skywright.errors import DataError
from skywright.instruments.loop.calibration import ZoomCalibration, from_json
from skywright.instruments.loop.rotation_pictures import (
    RotationCurves,
    describe_result,
    rotation_curves,
)
from skywright.store.export.contents import RunContents, read_contents
from skywright.store.lookup import JournalListing, RunSummary, find_run, summarize
from skywright.store.show import final_results

CAMERA = "axis"
"""The IOC whose camera looks at the loop."""
ANALYSIS = "loop_rotation"
RUNS_MAX = 8
CURVE_COLUMNS = (
    "phi", "tipX", "tipY", "bboxMinX", "bboxMaxX", "bboxMinY", "bboxMaxY", "loop_width",
)  # fmt: skip


@dataclass(frozen=True)
class Rotation:
    """A rotation as it is shown."""

    summary: RunSummary
    words: str
    charts: Sequence[Markup]
    """None of them where nothing was seen."""
    results: Mapping[str, Any]


async def loop(request: Request) -> Response:
    """Show the camera, the newest series of a DHS, and the rotation that is asked for."""
    site, uid = site_of(request), request.query_params.get("rotation", "")
    ask, journals, rotation = site.catalog.try_ask, site.settings.journals, None
    series, series_wrong = await ask(newest_series, journals)
    rotations, wrong = await ask(newest_results, ANALYSIS, RUNS_MAX, journals)
    if rotations is not None and (uid or rotations):
        rotation, wrong = await ask(read_rotation, uid or rotations[0].uid, journals)
    return render(
        request,
        "dashboard.loop:loop.html",
        camera=CAMERA in site.settings.iocs,
        rotations=rotations or [],
        rotation=rotation,
        series=series,
        series_wrong=series_wrong,
        wrong=wrong,
    )


def read_rotation(client: Container, uid: str, journals: Path) -> Rotation:
    """Read a fit of a rotation and draw it.

    Raises
    ------
    DataError
        If the run is none, or not whole yet.
    """
    listing = JournalListing(journals)
    contents = read_contents(find_run(client, uid), listing)
    results = final_results(contents)
    calibration = ((contents.start.get("analysis") or {}).get("parameters") or {}).get(
        "calibration"
    )
    if calibration is None:
        raise DataError(f"run {uid[:8]}: no calibration in the parameters of its analysis")
    try:
        curves = read_curves(contents, results, from_json(calibration))
        words = describe_result(results)
    except KeyError as error:  # the catalog is writing the run
        raise DataError(f"run {uid[:8]}: it is {contents.status}, no result {error} yet") from error
    return Rotation(
        summary=summarize(contents.start, contents.stop, contents.status),
        words=words,
        charts=[draw_place(curves), draw_width(curves)] if has_points(curves) else [],
        results=results,
    )


def read_curves(
    contents: RunContents, results: Mapping[str, Any], calibration: ZoomCalibration
) -> RotationCurves:
    """Return what was seen and fitted in a stored rotation."""
    columns = read_columns(contents.stream("pictures"), CURVE_COLUMNS)
    if missing := [name for name in CURVE_COLUMNS if name not in columns]:
        uid = contents.start["uid"][:8]
        raise DataError(
            f"run {uid}: it is {contents.status} and has no column {', '.join(missing)} in pictures"
        )
    return rotation_curves(list(columns.values()), results, calibration)


def has_points(curves: RotationCurves) -> bool:
    """Return whether any picture showed the tip at a known angle."""
    return bool(np.isfinite(curves.phi_deg + curves.seen["tip"]).any())


def draw_place(curves: RotationCurves) -> Markup:
    """Draw the height of tip and middle over the spindle's angle, with the fits."""
    styles = {"tip": "a", "middle": "b"}
    return draw_chart(
        [
            Marks(name, curves.phi_deg, curves.seen[name], style, square=name == "middle")
            for name, style in styles.items()
        ],
        [Curve(curves.curve_deg, curves.fitted[name], style) for name, style in styles.items()],
        "spindle, deg",
        "from the spindle, µm",
        "Height of the tip and of the middle of the loop over the angle of the spindle",
    )


def draw_width(curves: RotationCurves) -> Markup:
    """Draw the width of the loop over the spindle's angle, with the fit of its face."""
    return draw_chart(
        [Marks("width", curves.phi_deg, curves.width, "c")],
        [Curve(curves.curve_deg, curves.fitted_width, "c")],
        "spindle, deg",
        "width, µm",
        "Width of the loop over the angle of the spindle",
    )


def feeds(site: Site) -> dict[str, FeedSource]:
    """Return the camera's feed, where there is a camera."""
    if CAMERA not in site.settings.iocs:
        return {}
    detection = json.dumps(site.settings.loop.detection)
    worker = (CAMERA, "dashboard.loop.camera_worker", "--detection", detection)
    return {"camera": partial(worker_messages, site.settings, *worker)}


VIEW = View(path="/loop", title="Loop", routes=[Route("/loop", loop)], feeds=feeds, order=20)

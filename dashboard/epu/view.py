"""EPU, live: the atlas with its squares, one square with its holes, counts, troubles, runs."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dashboard.color_map import css_colors
from dashboard.live_board import LiveBoard, LiveIoc
from dashboard.recent_runs import recent_runs
from dashboard.site import render, site_of
from dashboard.views import View

IOC = LiveIoc(
    "epu", "dashboard.epu.epu_worker", lambda: LiveBoard(status="waiting for the IOC of EPU")
)
SIDE, EDGE = 400, 12
NEXT = 6
PLANS = ("track_epu",)

Place = Sequence[Any]
"""Of a square or hole: id, x, y in px, micrographs, share of good ones or None."""


async def epu(request: Request) -> Response:
    """Show the grid that is taken now, and the latest runs."""
    site = site_of(request)
    facts = IOC.board_of(site).facts
    grid = facts.get("overview", {})
    suggestion = facts.get("suggestion", {})
    return render(
        request,
        "dashboard.epu:epu.html",
        **IOC.context(site),
        grid=grid,
        atlas=draw_places(grid.get("squares", []), grid.get("current", ""), "square"),
        holes=draw_places(grid.get("holes", []), "", "hole"),
        scale=draw_scale(),
        suggestion=suggestion,
        next_squares=suggestion.get("squares", [])[:NEXT],
        next_holes=suggestion.get("holes", [])[:NEXT],
        recent=await recent_runs(site, PLANS),
    )


def draw_places(places: Sequence[Place], current: str, kind: str) -> Markup | None:
    """Draw squares of an atlas or holes of a square, colored by their share of good micrographs.

    Those without micrographs are outlines, those without results are dashed; `current` has a frame.
    None if no place is known.
    """
    known = [each for each in places if each[1] is not None and each[2] is not None]
    if not known:
        return None
    xs, ys = [each[1] for each in known], [each[2] for each in known]
    left, top = min(xs), min(ys)
    width = max(max(xs) - left, max(ys) - top, 1.0)
    scale = (SIDE - 4 * EDGE) / width
    size = max(2.0, min(11.0, 0.3 * SIDE / len(known) ** 0.5))
    colors = css_colors([0.0 if each[4] is None else each[4] for each in known])
    marks = []
    for (name, x, y, count, share), color in zip(known, colors, strict=True):
        fill = color if count and share is not None else "none"
        good = "no results yet" if share is None else f"{share:.0%} good"
        text = f"{kind} {name}: {count} micrographs, {good}" if count else f"{kind} {name}"
        stroke = "var(--a)" if name == current else "var(--faint)"
        dashes = ' stroke-dasharray="3 2"' if count and share is None else ""
        radius = 0 if kind == "square" else size
        shape = (
            f'x="{2 * EDGE + (x - left) * scale - size:.1f}" '
            f'y="{2 * EDGE + (y - top) * scale - size:.1f}" '
            f'width="{2 * size:.1f}" height="{2 * size:.1f}" rx="{radius:.1f}" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="{3 if name == current else 1}"{dashes}'
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
        f'<rect x="{16 * n}" width="16" height="12" fill="{color}"></rect>'
        for n, color in enumerate(css_colors([n / 7 for n in range(8)]))
    ]
    return Markup(f'<svg class="scale" viewBox="0 0 128 12">{"".join(steps)}</svg>')


VIEW = View(path="/epu", title="EPU", routes=[Route("/epu", epu)], feeds=IOC.feeds, order=40)

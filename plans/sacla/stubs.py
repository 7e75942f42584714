"""Steps of the plans that take shots: checks, a run with its streams, reports of new rows.

A shot source has `rows` (flies; a row for each shot), `region_sets`, `images` and `frames`, all
with `has_more` (rows of a further file are left to report), and `close_files`; triggered, it takes
the shots of one point of a scan.
"""

from collections.abc import Mapping
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.protocols import Collectable, Flyable, Movable, Preparable, Readable, Triggerable
from bluesky.utils import MsgGenerator

from plans.checks import Needs
from plans.run_stubs import Body, collect_new_rows, staged_run

COLLECT_S = 0.25
"""Time between two reports of new shots, s."""
SHOTS = "shots"
BESIDE = ("region_sets", "images", "frames")
"""The streams of a shot source beside `rows`."""

FLYING = Needs("shot source", parts={"rows": (Preparable, Flyable, Collectable)})
SCANNED = Needs(
    "shot source",
    (Readable, Triggerable),
    dict.fromkeys(
        ("shots_per_point", "wanted_error", "wanted_stage_delay", "bins", "binned_by"), (Movable,)
    ),
)


def recorded(sacla: Any, body: Body, md: Mapping[str, Any], rows: str) -> MsgGenerator[Any]:
    """Run `body` in a run with the shot source staged and its streams declared.

    Parameters
    ----------
    sacla
        The shot source.
    body
        The plan.
    md
        Of the start document.
    rows
        Name of the stream of shots.

    Returns
    -------
    (uid, Any)
        Of the run, and what `body` returns.
    """

    def inside() -> MsgGenerator[Any]:
        yield from bps.declare_stream(sacla.rows, name=rows, collect=True)
        for name in BESIDE:
            if getattr(sacla, name).file:
                yield from bps.declare_stream(getattr(sacla, name), name=name, collect=True)
        return (yield from body())

    return (yield from staged_run(sacla, inside, md))


def collect(sacla: Any, rows: str) -> MsgGenerator[None]:
    """Report the new rows of all files."""
    yield from _collect_files(sacla.rows, rows)
    for name in BESIDE:
        if getattr(sacla, name).file:
            yield from _collect_files(getattr(sacla, name), name)


def _collect_files(stream: Any, name: str) -> MsgGenerator[None]:
    """Report the new rows of a stream; a new run of the facility has opened a further file."""
    yield from collect_new_rows(stream, name)
    while stream.has_more:
        yield from collect_new_rows(stream, name)

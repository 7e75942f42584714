"""Steps of the plans that take shots: checks, a run with its streams, reports of new rows.

A shot source has `rows` (flies; a row for each shot), `region_sets`, `images` and `frames`, all
with `has_more` (rows of a further file are left to report), and `close_files`; triggered, it takes
the shots of one point of a scan.
"""

from collections.abc import Mapping
from typing import Any

from bluesky.protocols import Collectable, Flyable, Movable, Preparable, Readable, Triggerable
from bluesky.utils import MsgGenerator

from plans.checks import Needs
from plans.run_stubs import Body, collect_streams, declare_streams, staged_run

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
        yield from declare_streams(streams_of(sacla, rows))
        return (yield from body())

    return (yield from staged_run(sacla, inside, md))


def streams_of(sacla: Any, rows: str) -> dict[str, Any]:
    """Return the streams of a run: of shots, and those beside them that have a file."""
    beside = {name: getattr(sacla, name) for name in BESIDE}
    return {rows: sacla.rows} | {name: each for name, each in beside.items() if each.file}


def collect(sacla: Any, rows: str) -> MsgGenerator[None]:
    """Report the new rows of all files."""
    yield from collect_streams(streams_of(sacla, rows))

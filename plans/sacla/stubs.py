"""Steps of the plans that take shots: checks, a run with its streams, reports of new rows.

A shot source has `rows` (flies; a row for each shot), `region_sets`, `images`, `frames`, and
`close_files`; triggered, it takes the shots of one point of a scan.
"""

from collections.abc import Mapping
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Collectable, Flyable, Movable, Preparable, Readable, Triggerable
from bluesky.utils import MsgGenerator

from plans.checks import check_protocol
from plans.run_stubs import Body, in_run, with_reasons

COLLECT_S = 0.25
"""Time between two reports of new shots, s."""
PRIMARY, SHOTS = "primary", "shots"
BESIDE = ("region_sets", "images", "frames")
"""Streams beside that of the rows."""


def check_flyer(sacla: Any) -> None:
    """Raise `TypeError` if the device does not record shots at their rate."""
    for protocol in (Preparable, Flyable, Collectable):
        check_protocol(getattr(sacla, "rows", None), f"{sacla!r}'s rows", protocol)


def check_scanned(sacla: Any, motor: Any) -> None:
    """Raise `TypeError` if the devices do not fit a step scan."""
    check_protocol(sacla, f"shot source {sacla!r}", Readable)
    check_protocol(sacla, f"shot source {sacla!r}", Triggerable)
    for part in ("shots_per_point", "wanted_error", "stage_delay", "bins"):
        check_protocol(getattr(sacla, part, None), f"{sacla!r}'s {part}", Movable)
    check_protocol(motor, f"motor {motor!r}", Readable)
    check_protocol(motor, f"motor {motor!r}", Movable)


def metadata(
    plan: str, sacla: Any, motor: Any, arguments: Mapping[str, Any], md: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the start document's metadata; what the user gives wins."""
    assets = getattr(sacla, "assets", None)
    named = {"sacla": sacla.name, **({"motor": motor.name} if motor is not None else {})}
    return {
        "plan_name": plan,
        "plan_args": {**named, **arguments},
        "detectors": [sacla.name],
        **({"motors": [motor.name]} if motor is not None else {}),
        **({"assets": str(assets)} if assets is not None else {}),
        **(md or {}),
    }


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
    uids: list[str] = []

    def inside() -> MsgGenerator[Any]:
        yield from bps.declare_stream(sacla.rows, name=rows, collect=True)
        for name in BESIDE:
            if getattr(sacla, name).file:
                yield from bps.declare_stream(getattr(sacla, name), name=name, collect=True)
        return (yield from body())

    @bpp.stage_decorator([sacla])
    def staged() -> MsgGenerator[Any]:
        return (yield from in_run(inside, md, uids))

    answer = yield from with_reasons(staged())
    return uids[-1], answer


def collect(sacla: Any, rows: str) -> MsgGenerator[None]:
    """Report the rows of all files that are new."""
    yield from bps.collect(sacla.rows, name=rows)
    for name in BESIDE:
        if getattr(sacla, name).file:
            yield from bps.collect(getattr(sacla, name), name=name)

"""Steps of the plans of the spectrometer: checks, a run with its streams, points.

A spectrometer has `pulses` (it flies; each pulse is a row of its stream), `pictures` (some raw
pictures), `energy_axis` and `background_recorder`. It may have `pulse_settings` (a row for each
number of settings) and `record_pictures` (0: no raw pictures). A trigger takes `pulses_per_point`
pulses.
"""

from collections.abc import Mapping
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.protocols import Collectable, Flyable, Movable, Preparable, Readable, Triggerable
from bluesky.utils import MsgGenerator

from plans.checks import Needs
from plans.run_stubs import (
    Body,
    collect_streams,
    declare_streams,
    staged_run,
    trigger_and_read,
)

PULSES, PICTURES, SETTINGS = "pulses", "pictures", "settings"

Reading = Mapping[str, Any]


# ---- what plans need of it


FLYING = Needs(
    "spectrometer", parts={"pulses": (Preparable, Flyable, Collectable), "pictures": (Collectable,)}
)
SCANNED = Needs(
    "spectrometer",
    (Readable, Triggerable),
    {"pulses": (Collectable,), "pulses_per_point": (Movable,)},
)


# ---- a run and its streams


def recorded(psss: Any, body: Body, md: Mapping[str, Any], stream: str) -> MsgGenerator[Any]:
    """Run `body` in a run with the spectrometer staged and its streams declared.

    Parameters
    ----------
    psss
        The spectrometer.
    body
        The plan.
    md
        Metadata for the start document.
    stream
        Name of the stream of pulses.

    Returns
    -------
    (uid, Any)
        Uid of the run, and what `body` returns.
    """

    def inside() -> MsgGenerator[Any]:
        yield from declare_streams((yield from streams_of(psss, stream)))
        return (yield from body())

    return (yield from staged_run(psss, inside, md))


def streams_of(psss: Any, stream: str) -> MsgGenerator[dict[str, Any]]:
    """Return the streams of a run: of pulses, of their settings, of raw pictures if it has any."""
    streams = {stream: psss.pulses}
    if hasattr(psss, "pulse_settings"):
        streams[SETTINGS] = psss.pulse_settings
    if hasattr(psss, "record_pictures") and (yield from bps.rd(psss.record_pictures)):
        streams[PICTURES] = psss.pictures
    return streams


def collect(psss: Any, stream: str) -> MsgGenerator[None]:
    """Report the new rows of every stream; `HardwareError` if the spectrometer has an error."""
    yield from collect_streams((yield from streams_of(psss, stream)))


def take_point(psss: Any, motor: Any, position: float) -> MsgGenerator[Reading]:
    """Move the motor, take the pulses of a point, and return the values of the event."""
    yield from bps.checkpoint()
    yield from bps.mv(motor, position)
    reading = yield from trigger_and_read([psss, motor], f"{psss.name}_n_good")
    yield from collect(psss, PULSES)
    return {key: each["value"] for key, each in reading.items()}

"""Steps of the plans of the spectrometer: checks, a run with its streams, points, clean-up.

A spectrometer has `pulses` (it flies; each pulse is a row of its stream), `pictures` (some raw
pictures), `energy_axis` and `background_recorder`. It may have `pulse_settings` (a row for each
number of settings) and `record_pictures` (0: no raw pictures). A trigger takes `pulses_per_point`
pulses.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Collectable, Flyable, Movable, Preparable, Readable, Triggerable
from bluesky.utils import MsgGenerator

from plans.checks import Needs
from plans.run_stubs import Body, collect_new_rows, staged_run, trigger_and_read

COLLECT_S = 0.25
"""Time between two reports of new rows in a plan that flies, s."""
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
        yield from declare(psss, stream)
        return (yield from body())

    return (yield from staged_run(psss, inside, md))


def declare(psss: Any, stream: str) -> MsgGenerator[None]:
    """Declare the streams of a run: of pulses, of their settings, of pictures."""
    yield from bps.declare_stream(psss.pulses, name=stream, collect=True)
    if hasattr(psss, "pulse_settings"):
        yield from bps.declare_stream(psss.pulse_settings, name=SETTINGS, collect=True)
    if (yield from wants_pictures(psss)):
        yield from bps.declare_stream(psss.pictures, name=PICTURES, collect=True)


def wants_pictures(psss: Any) -> MsgGenerator[bool]:
    """Return whether raw pictures are recorded."""
    if not hasattr(psss, "record_pictures"):
        return False
    return bool((yield from bps.rd(psss.record_pictures)))


def collect(psss: Any, stream: str, pictures: bool) -> MsgGenerator[None]:
    """Report the new rows of every stream; `HardwareError` if the spectrometer has an error."""
    yield from collect_new_rows(psss.pulses, stream)
    if hasattr(psss, "pulse_settings"):
        yield from collect_new_rows(psss.pulse_settings, SETTINGS)
    if pictures:
        yield from collect_new_rows(psss.pictures, PICTURES)


def take_point(psss: Any, motor: Any, position: float) -> MsgGenerator[Reading]:
    """Move the motor, take the pulses of a point, and return the values of the event."""
    yield from bps.checkpoint()
    yield from bps.mv(motor, position)
    reading = yield from trigger_and_read([psss, motor], f"{psss.name}_n_good")
    yield from collect(psss, PULSES, (yield from wants_pictures(psss)))
    return {key: each["value"] for key, each in reading.items()}


def with_restored(plan: MsgGenerator[Any], settings: Sequence[Any]) -> MsgGenerator[Any]:
    """Run a plan; in any case set `settings` (Movable, Readable) back to their values before.

    The last one is set first, and each of them even if another cannot be set.
    """
    for setting in reversed(settings):
        plan = _with_one_restored(plan, setting)
    return (yield from plan)


def _with_one_restored(plan: MsgGenerator[Any], setting: Any) -> MsgGenerator[Any]:
    before = yield from bps.rd(setting)

    def put_back() -> MsgGenerator[None]:
        yield from bps.abs_set(setting, before, wait=True)

    return (yield from bpp.finalize_wrapper(plan, put_back))

"""Plans of the single-shot spectrometer: every pulse, a background, a scan of a motor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Movable, Readable
from bluesky.utils import Msg, MsgGenerator

from plans.checks import MOTOR, Needs, check_devices, check_limits, finite, whole
from plans.psss import stubs
from plans.psss.calibration import EnergyCalibration, calibrate_energy_axis
from plans.psss.optimize import Optimum, optimize_spectrum
from plans.run_stubs import (
    PRIMARY,
    declare_streams,
    fly,
    in_run,
    start_metadata,
    with_device_errors,
    with_restored,
)
from skywright.errors import ConfigError
from skywright.instruments.psss.settings import PULSES_MAX

__all__ = [
    "Background",
    "EnergyCalibration",
    "Optimum",
    "acquire_spectra",
    "calibrate_energy_axis",
    "optimize_spectrum",
    "record_pulses",
    "scan_spectra",
    "take_background",
]

SECONDS_MAX = 24 * 3600.0
RECORDS_BACKGROUNDS = Needs(
    "spectrometer", parts={"background_recorder": (Movable,), "processing": (Movable,)}
)


@dataclass(frozen=True)
class Background:
    """A background that was recorded and is in use.

    Parameters
    ----------
    name
        Name in the history.
    pulses
        Number of pulses of which it is the mean.
    uid
        Uid of the run that recorded it.
    """

    name: str
    pulses: int
    uid: str


def acquire_spectra(
    psss: Readable,
    n: int | None = None,
    seconds: float | None = None,
    *,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Record every pulse's spectrum and fit, at the rate of the machine.

    The stream ``primary`` has a row for each pulse, ``pictures`` one for each raw picture,
    ``settings`` one for each number of settings.

    Parameters
    ----------
    psss
        The spectrometer.
    n
        Number of pulses; None with `seconds`.
    seconds
        Duration, more than 0 and at most a day; None with `n`.
    md
        Metadata for the start document.

    Returns
    -------
    str
        The uid of the run.

    Raises
    ------
    ConfigError
        If not exactly one of `n` and `seconds` is given, or its value is not allowed; before
        anything starts.
    TypeError
        If the device cannot do its part.
    HardwareError
        If no pulse comes, or the IOC does not answer.
    """
    check_devices("acquire_spectra", psss=(psss, stubs.FLYING))
    if (n is None) == (seconds is None):
        raise ConfigError("acquire_spectra: give either n, of pulses, or seconds")
    pulses = 0 if n is None else whole("acquire_spectra", "n", n)
    if seconds is not None:
        seconds = finite("acquire_spectra", "seconds", seconds, 0.0)
    if seconds is not None and seconds > SECONDS_MAX:
        raise ConfigError(f"acquire_spectra: seconds = {seconds}, at most {SECONDS_MAX:g}")
    device: Any = psss

    def body() -> MsgGenerator[None]:
        streams = yield from stubs.streams_of(device, PRIMARY)
        yield from bps.checkpoint()
        yield from bps.prepare(device.pulses, pulses, wait=True)
        yield from fly(device.pulses, streams, pulses, seconds or 0.0)

    arguments = {"n": n} if seconds is None else {"seconds": seconds}
    _md = start_metadata("acquire_spectra", {"psss": psss}, arguments, md)
    uid, _ = yield from stubs.recorded(device, body, _md, PRIMARY)
    return str(uid)


def take_background(
    psss: Readable,
    n: int = 100,
    *,
    shutter: Movable | None = None,
    closed: float = 0,
    settle_s: float = 0.2,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[Background]:
    """Use the mean picture of the next pulses as background; they must come without light.

    A pause cancels the recording, and resume begins it anew.

    Parameters
    ----------
    psss
        The spectrometer.
    n
        Number of pulses, at most 10,000.
    shutter
        Shutter that is set to `closed` for the recording, and then back to its value before; None:
        the beam is already off.
    closed
        Value of the shutter that blocks the beam.
    settle_s
        Time, s, to wait after the shutter has closed.
    md
        Metadata for the start document.

    Returns
    -------
    Background
        Background, which is in use from the next pulse on.

    Raises
    ------
    ConfigError
        If a parameter makes no sense; before anything moves.
    TypeError
        If a device cannot do its part.
    HardwareError
        If not enough pulses come; the last background stays in use.
    """
    check_devices("take_background", psss=(psss, RECORDS_BACKGROUNDS))
    if shutter is not None:
        shut = Needs("shutter", (Readable, Movable))
        check_devices("take_background", shutter=(shutter, shut))
    n = whole("take_background", "n", n, most=PULSES_MAX)
    settle_s = finite("take_background", "settle_s", settle_s, 0.0, inclusive=True)
    device: Any = psss
    uids: list[str] = []

    def body() -> MsgGenerator[Mapping[str, Any]]:
        if shutter is not None:
            yield from bps.abs_set(shutter, closed, wait=True)
        yield from bps.abs_set(device.processing, 1, wait=True)
        yield from bps.sleep(settle_s)
        yield from bps.checkpoint()
        yield from bps.abs_set(device.background_recorder, n, wait=True)
        yield from bps.create(PRIMARY)
        reading = yield from bps.read(device.background_recorder)
        yield from bps.save()
        return reading or {}

    def cancel() -> MsgGenerator[None]:
        # A recording that goes on when the shutter is opened takes pulses with light.
        yield from bps.abs_set(device.background_recorder, 0, wait=True)

    devices = {"psss": psss, "shutter": shutter}
    _md = start_metadata("take_background", devices, {"n": n}, md)
    restored = [*([shutter] if shutter is not None else []), device.processing]
    recording = bpp.finalize_wrapper(in_run(body, _md, uids), cancel)
    reading = yield from with_device_errors(with_restored(recording, restored))
    name = reading.get(f"{device.background_recorder.name}_name", {}).get("value", "")
    return Background(str(name), n, uids[-1])


def scan_spectra(
    psss: Readable,
    motor: Movable,
    start: float,
    stop: float,
    num: int,
    *,
    pulses: int = 10,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Take pulses at each of several positions of a motor.

    The stream ``primary`` has an event for each position, with means over its pulses. The stream
    ``pulses`` has a row for each pulse, ``settings`` one for each number of settings.

    Parameters
    ----------
    psss
        The spectrometer.
    motor
        Motor.
    start, stop, num
        First and last position, and number of positions, at least 1.
    pulses
        Number of pulses at each position.
    md
        Metadata for the start document.

    Returns
    -------
    str
        The uid of the run.

    Raises
    ------
    ConfigError
        If a parameter makes no sense, or a position is beyond the motor's limits; before anything
        moves.
    TypeError
        If a device cannot do its part.
    HardwareError
        If a device fails.
    """
    check_devices("scan_spectra", psss=(psss, stubs.SCANNED), motor=(motor, MOTOR))
    low, high = (finite("scan_spectra", *pair) for pair in (("start", start), ("stop", stop)))
    num = whole("scan_spectra", "num", num, most=1_000_000)
    pulses = whole("scan_spectra", "pulses", pulses)
    check_limits("scan_spectra", motor, low, high)
    device: Any = psss

    def body() -> MsgGenerator[None]:
        for position in np.linspace(low, high, num).tolist():
            yield from stubs.take_point(device, motor, position)
        yield from bps.checkpoint()

    arguments = {"start": low, "stop": high, "num": num, "pulses": pulses}
    devices = {"psss": psss, "motor": motor}
    _md = start_metadata("scan_spectra", devices, arguments, md, num_points=num)

    def whole_scan() -> MsgGenerator[Any]:
        yield from bps.abs_set(device.pulses_per_point, pulses, wait=True)
        return (yield from stubs.recorded(device, body, _md, stubs.PULSES))

    uid, _ = yield from with_restored(whole_scan(), [device.pulses_per_point])
    return str(uid)


def record_pulses(plan: MsgGenerator[Any], psss: Readable) -> MsgGenerator[Any]:
    """Run any plan that triggers the spectrometer, with a row for each pulse in ``pulses``.

    The events of a plan have only means over the pulses of a point. With this wrapper, the runs of
    bluesky's own plans also have the stream ``pulses``.

    Parameters
    ----------
    plan
        Plan, such as ``grid_scan([psss], ...)``, that stages the spectrometer before it opens its
        run.
    psss
        The spectrometer.

    Returns
    -------
    Any
        What `plan` returns.

    Raises
    ------
    TypeError
        If the device has no rows of pulses.
    """
    check_devices("record_pulses", psss=(psss, stubs.FLYING))
    device: Any = psss

    def begin() -> MsgGenerator[None]:
        yield from declare_streams((yield from stubs.streams_of(device, stubs.PULSES)))

    def report() -> MsgGenerator[None]:
        return stubs.collect(device, stubs.PULSES)

    def insert(message: Msg) -> tuple[None, MsgGenerator[None] | None]:
        after = {"open_run": begin, "save": report}.get(message.command)
        return None, None if after is None else after()

    # Not a generator function, so that the queue server does not take it for a plan.
    wrapped: MsgGenerator[Any] = bpp.plan_mutator(plan, insert)
    return wrapped

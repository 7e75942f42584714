"""Set up the modules: dark runs, gain of pixels, the threshold that gives a trigger rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator

from plans.checks import check_devices, finite
from plans.panoseti.runs import OBSERVING, Collect, cleaned_up, simulated_run, timed_run
from plans.run_stubs import start_metadata, until_done, with_device_errors
from skywright.errors import DataError

TUNING = "tuning"


@dataclass(frozen=True)
class TunedThreshold:
    """A threshold that is in use.

    Parameters
    ----------
    threshold_adc
        Of all boards, ADC.
    rate_hz
        Rate of triggers of all modules that was measured with it.
    uid
        Of the run.
    """

    threshold_adc: float
    rate_hz: float
    uid: str


def dark_run(
    panoseti: Any, seconds: float, *, md: Mapping[str, Any] | None = None
) -> MsgGenerator[str]:
    """Take a run with closed shutters, and put them back to what they were.

    ``skywright reprocess UID --analysis panoseti_ph256`` gives pedestal and noise of its pixels.

    Arguments, answer and errors are those of `observe`.
    """
    return (
        yield from timed_run(
            "dark_run",
            panoseti,
            seconds,
            md,
            shutter="closed",
            needs=OBSERVING.with_parts(open_shutter=(), shutter=(Readable,)),
            changes=[("shutter", "open_shutter", False)],
        )
    )


def calibrate_gain(
    panoseti: Any,
    seconds: float = 10.0,
    *,
    flasher_pe: float = 50.0,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Take a run with closed shutters and the flat-field light of the flasher.

    Shutters and flasher are put back to what they were.

    ``skywright reprocess UID --analysis panoseti_gain`` gives the gain of its pixels. Arguments,
    answer and errors are those of `observe`, and:

    Parameters
    ----------
    flasher_pe
        Light of a pulse in each pixel, photoelectrons. More tells the gain better, until pulses
        reach the end of the converter, 3275 ADC: such a pixel has no gain.

    Raises
    ------
    ConfigError
        If `flasher_pe` is not above 0.
    """
    flasher_pe = finite("calibrate_gain", "flasher_pe", flasher_pe, 0.0)
    return (
        yield from timed_run(
            "calibrate_gain",
            panoseti,
            seconds,
            md,
            shutter="closed",
            flasher_pe=flasher_pe,
            needs=OBSERVING.with_parts(
                open_shutter=(), set_flasher=(), shutter=(Readable,), flasher=(Readable,)
            ),
            changes=[("shutter", "open_shutter", False), ("flasher", "set_flasher", flasher_pe)],
        )
    )


def tune_threshold(
    panoseti: Any,
    rate_hz: float,
    *,
    least_adc: float = 45.0,
    most_adc: float = 150.0,
    seconds: float = 2.0,
    tolerance: float = 0.1,
    resolution_adc: float = 0.5,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[TunedThreshold]:
    """Find the threshold at which all modules together trigger at a rate, by bisection.

    Each step is an event of the stream ``tuning``. The threshold stays set. When the plan fails,
    the former one is set again.

    Parameters
    ----------
    panoseti
        The modules; their IOC has the source ``sim``.
    rate_hz
        Wanted rate of the pulse-height frames of all modules, Hz.
    least_adc, most_adc
        The threshold is between them, ADC.
    seconds
        Time of a measurement, s.
    tolerance
        The rate may be off by this part of `rate_hz`.
    resolution_adc
        The search ends when it knows the threshold to this, ADC.
    md
        Metadata of the start document.

    Raises
    ------
    ConfigError
        If an argument is impossible.
    TypeError
        If `panoseti` cannot do its part.
    DataError
        If the rate is not between those at `least_adc` and `most_adc`.
    HardwareError
        If the IOC does not answer, does not simulate, takes a run already, or cannot write.
    """
    plan = "tune_threshold"
    seconds = finite(plan, "seconds", seconds, 0.0)
    rate_hz = finite(plan, "rate_hz", rate_hz, 0.0)
    least_adc = finite(plan, "least_adc", least_adc, 0.0)
    most_adc = finite(plan, "most_adc", most_adc, least_adc)
    tolerance = finite(plan, "tolerance", tolerance, 0.0)
    resolution_adc = finite(plan, "resolution_adc", resolution_adc, 0.0)
    needs = OBSERVING.with_parts(set_threshold=(), measure_rate=())
    needs = needs.with_parts(threshold=(Readable,), trigger_rate=(Readable,))
    check_devices(plan, panoseti=(panoseti, needs))
    arguments = {"rate_hz": rate_hz, "least_adc": least_adc, "most_adc": most_adc}
    start = start_metadata("tune_threshold", {"panoseti": panoseti}, arguments, md)

    def rate_at(threshold_adc: float, collect: Collect) -> MsgGenerator[float]:
        yield from bps.checkpoint()
        yield from until_done(panoseti.set_threshold(threshold_adc))
        yield from until_done(panoseti.measure_rate(seconds))
        yield from bps.create(name=TUNING)
        yield from bps.read(panoseti.threshold)
        yield from bps.read(panoseti.trigger_rate)
        yield from bps.save()
        yield from collect()
        return float((yield from bps.rd(panoseti.trigger_rate)))

    def search(collect: Collect) -> MsgGenerator[tuple[float, float]]:
        low, high = least_adc, most_adc
        fast = yield from rate_at(low, collect)
        slow = yield from rate_at(high, collect)
        if not slow <= rate_hz <= fast:
            raise DataError(
                f"{panoseti.name}: the rate is {fast:.3g} Hz at {low:g} ADC and {slow:.3g} Hz at "
                f"{high:g} ADC; {rate_hz:g} Hz is not between: set least_adc and most_adc wider"
            )
        while True:
            middle = (low + high) / 2
            rate = yield from rate_at(middle, collect)
            if abs(rate / rate_hz - 1) <= tolerance or high - low <= 2 * resolution_adc:
                return middle, rate
            low, high = (middle, high) if rate > rate_hz else (low, middle)

    def tune() -> MsgGenerator[TunedThreshold]:
        uid, (threshold_adc, rate) = yield from simulated_run(panoseti, search, start)
        return TunedThreshold(threshold_adc, rate, uid)

    yield from with_device_errors(until_done(panoseti.check_no_run()))
    former, losses = float((yield from bps.rd(panoseti.threshold))), panoseti.losses

    def restore(error: Exception) -> MsgGenerator[None]:
        if math.isfinite(former):
            step = partial(panoseti.set_threshold, former)
            yield from cleaned_up(panoseti, losses, step)

    return (yield from bpp.contingency_wrapper(tune(), except_plan=restore))

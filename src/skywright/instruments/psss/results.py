"""What the owner of the pulses hands on, and what it expects of those who get it."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.psss.processing import Settings, Spectrum
from skywright.instruments.psss.pulse import Pulse


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One pulse with what was made of it.

    Parameters
    ----------
    pulse
        As it came.
    spectrum
        What was found, and what it was made with.
    settings, settings_number
        What it was processed with; the number grows with each change.
    time_ns
        The pulse's time, ns since 1970; the arrival's when the sender gave none.
    taken_s
        Monotonic clock at arrival.
    duration_ms
        Time that the processing took.
    """

    pulse: Pulse
    spectrum: Spectrum
    settings: Settings
    settings_number: int
    time_ns: int
    taken_s: float
    duration_ms: float

    @property
    def energy_uj(self) -> float:
        """The pulse's energy, uJ; NaN when it is not known."""
        energy = self.pulse.energy_uj
        return math.nan if energy is None else energy

    @property
    def brightness(self) -> float:
        """Pulse energy over width, uJ/eV; NaN when one of them is not known."""
        return self.spectrum.brightness(self.energy_uj)


class Sink(Protocol):
    """Gets every result, in order, on the owner's thread."""

    def offer(self, result: Result) -> None:
        """Take a result; must return at once and count what it cannot take."""


class AcquisitionSink(Sink, Protocol):
    """Gets the results of acquisitions only: a recorder."""

    def mark(self, done: Callable[[], None]) -> None:
        """Call `done` when all that was offered before is kept and visible."""


@dataclass(eq=False)
class Acquisition:
    """A request for pulses: `wanted` of them, 0 until it is stopped.

    `done` is set when all of them are kept by the recorders.
    """

    wanted: int
    taken: int = 0
    over: bool = False
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class ProcessorState:
    """What the owner knows at one moment.

    Attributes
    ----------
    processing
        Whether it was started; it may wait for pulses all the same.
    newest
        The last result; None before the first.
    shape, dtype
        Of the last picture, which may have come before `newest`: rows and columns, and numpy's
        name of its type; (0, 0) and empty before the first.
    pulses
        Pulses taken since the start of the process.
    taken
        Pulses of the acquisition under way.
    acquired
        Pulses of all acquisitions since the start of the process.
    acquiring
        Whether there is one.
    settings, settings_number
        What the next pulse will be processed with.
    lost
        Pulses lost by cause since the start of the process, at the source or behind it.
    failures
        What else failed, by cause, since the start of the process: nobody knows of pulses that
        it cost.
    unsent
        Results that the output could not send, by cause, since the start of the process.
    message, alarm
        What a person should know; `alarm` when somebody should act.
    """

    processing: bool
    acquiring: bool
    newest: Result | None
    shape: tuple[int, int]
    dtype: str
    pulses: int
    taken: int
    acquired: int
    settings: Settings
    settings_number: int
    lost: dict[str, int]
    failures: dict[str, int]
    unsent: dict[str, int]
    message: str
    alarm: bool


def background_applied(result: Result) -> bool:
    """Say whether the settings' background, named or not, was taken off."""
    image, settings = result.pulse.image, result.settings
    return (
        settings.background is not None
        and settings.background_mode != "none"
        and image is not None
        and settings.background.shape == image.shape
    )


def picture_of(result: Result) -> NDArray[Any] | None:
    """Return the (rows, columns) picture of a result, None when it has none."""
    image = result.pulse.image
    return image if isinstance(image, np.ndarray) and image.ndim == 2 else None


def remark(result: Result, image: NDArray[Any]) -> tuple[str, bool]:
    """Return what a person should know of a result, and whether somebody should act.

    It says what of the result, which has a picture, is not as the settings want it.
    """
    settings = result.settings
    rows, width = image.shape
    background = settings.background
    unwanted = background is None or settings.background_mode == "none"
    if background is not None and not (unwanted or background_applied(result)):
        size = "{1} x {0}".format(*background.shape)
        why = f"it is {size}, the picture {width} x {rows}"
        return f"background {settings.background_name!r} is not applied: {why}", True
    if settings.roi[1] > rows:
        return f"ROI {settings.roi} is not applied: the picture has {rows} rows", True
    if settings.axis is not None and len(settings.axis) != width:
        why = f"it has {len(settings.axis)} values, the picture {width} columns"
        return f"the energy axis is not applied: {why}", True
    return "processing", False

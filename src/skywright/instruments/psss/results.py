"""What the owner of the pulses hands on, and what it knows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.acquisition import OwnerState
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
        The pulse's time, ns since 1970; if the sender gave none, when its processing began.
    begun_s
        Monotonic clock when its processing began, after the wait for a thread.
    duration_ms
        Time that the processing took.
    """

    pulse: Pulse
    spectrum: Spectrum
    settings: Settings
    settings_number: int
    time_ns: int
    begun_s: float
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


@dataclass(frozen=True)
class ProcessorState(OwnerState[Result]):
    """What the owner of the pulses knows at one moment.

    Attributes
    ----------
    shape, dtype
        Of the last picture, which may have come before `newest`: rows and columns, and numpy's
        name of its type; (0, 0) and empty before the first.
    settings, settings_number
        What the next pulse will be processed with.
    unsent
        Results that the output could not send, by cause, since the start of the process.
    """

    shape: tuple[int, int] = (0, 0)
    dtype: str = ""
    settings: Settings = field(default_factory=Settings)
    settings_number: int = 0
    unsent: Mapping[str, int] = field(default_factory=dict)


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

    The text says which of the settings could not be applied to the picture.
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

"""Results and state of the owner of the pulses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.acquisition import OwnerState
from skywright.instruments.psss.processing import Settings, Spectrum
from skywright.instruments.psss.pulse import Pulse

IMAGE_CAUSE = "image "
"""Beginning of the causes for which messages of the separate stream of pictures were not sent."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The result of one pulse.

    Parameters
    ----------
    pulse
        Pulse as its source delivered it. If it could not be processed, it has no picture here.
    spectrum
        Spectrum and figures of the pulse.
    settings, settings_number
        Settings with which it was processed, and their number, which grows with each change.
    time_ns
        The pulse's time, ns since 1970; if the sender gave none, when its processing began.
    begun_s
        Value of the monotonic clock when its processing began, after the wait for a thread.
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
        """Energy of the pulse, uJ; NaN if it is not known."""
        energy = self.pulse.energy_uj
        return math.nan if energy is None else energy

    @property
    def brightness(self) -> float:
        """Pulse energy over width, uJ/eV; NaN if one of them is not known."""
        return self.spectrum.brightness(self.energy_uj)


@dataclass(frozen=True)
class ProcessorState(OwnerState[Result]):
    """State of the owner of the pulses at one moment.

    Attributes
    ----------
    shape, dtype
        Shape (rows, columns) and name of the numpy dtype of the last picture, which may have come
        before `newest`; (0, 0) and empty before the first one.
    settings, settings_number
        Settings with which the next pulse will be processed.
    unsent
        Number of messages that the output could not send, by cause, since the start of the process.
        A pulse has two if pictures have a stream of their own; see `IMAGE_CAUSE`.
    """

    shape: tuple[int, int] = (0, 0)
    dtype: str = ""
    settings: Settings = field(default_factory=Settings)
    settings_number: int = 0
    unsent: Mapping[str, int] = field(default_factory=dict)

    @property
    def unsent_results(self) -> int:
        """Number of results that could not be sent."""
        return sum(self.unsent.values()) - self.unsent_images

    @property
    def unsent_images(self) -> int:
        """Number of messages of the separate stream of pictures that could not be sent."""
        return sum(n for cause, n in self.unsent.items() if cause.startswith(IMAGE_CAUSE))


def picture_of(result: Result) -> NDArray[Any] | None:
    """Return the picture of a result, (rows, columns); None if it has none."""
    image = result.pulse.image
    return image if isinstance(image, np.ndarray) and image.ndim == 2 else None


def remark(result: Result, image: NDArray[Any]) -> tuple[str, bool]:
    """Return a message for people about a result, and whether it is an alarm.

    The message says which of the settings could not be applied to the picture.
    """
    settings = result.settings
    rows, width = image.shape
    background = settings.background_used
    if background is not None and background.shape != image.shape:
        size = "{1} x {0}".format(*background.shape)
        why = f"it is {size}, the picture {width} x {rows}"
        return f"background {settings.background_name!r} is not applied: {why}", True
    if settings.roi[1] > rows:
        return f"ROI {settings.roi} is not applied: the picture has {rows} rows", True
    if settings.axis is not None and len(settings.axis) != width:
        why = f"it has {len(settings.axis)} values, the picture {width} columns"
        return f"the energy axis is not applied: {why}", True
    return "processing", False

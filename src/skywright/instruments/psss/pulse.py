"""One pulse of the machine, as its source delivers it."""

import time
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

PREFIX = "SARFE10-PSSS059"
"""Prefix of the channels and PVs of the instrument at SwissFEL."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """One pulse of the machine, with the camera's picture of its spectrum.

    Parameters
    ----------
    pulse_id
        Number of the pulse on the machine's 100 Hz clock.
    time_ns
        Global timestamp, ns since 1970; None if the sender gave none.
    image
        Picture, (rows, columns), any numeric dtype in either byte order; None if there is none.
    message
        bsread message of the pulse; the output sends its picture's channel byte for byte. None if
        the pulse came in no message.
    truth
        True values of the pulse, from the simulator; None if the pulse is not simulated.
    energy_uj
        Pulse energy that a monitor of the machine measured, uJ; None if there is no value.
    has_unusable_picture
        True if a picture came which cannot be used; the source has reported why.
    received_s
        Value of the monotonic clock when the pulse came into this process; it may have waited in a
        queue since.
    """

    pulse_id: int
    time_ns: int | None
    image: NDArray[Any] | None
    message: Any = None
    truth: Any = None
    energy_uj: float | None = None
    has_unusable_picture: bool = False
    received_s: float = field(default_factory=time.monotonic, compare=False)

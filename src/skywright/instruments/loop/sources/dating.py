"""When a picture that came over the network was exposed: its arrival less a delay, as it is known.

A video server gives no time of exposure. Arrival is 60 to 300 ms late and scatters; the time that
some senders write beside a picture scatters less, but is by another clock.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Literal

Clock = Literal["arrival", "sender"]
FITTED_FRAMES = 300
"""Pictures from which the sender's clock is fitted: 10 s, in which no clock drifts by 1 ms."""

Date = Callable[[float, float], float]
"""From arrival and the sender's time (NaN: none), unix s each, to the time of the picture."""


def make_dating(delay_s: float = 0.0, clock: Clock = "arrival") -> Date:
    """Return what dates pictures.

    Parameters
    ----------
    delay_s
        From exposure to arrival. `calibrate_camera` fits it from sweeps of the spindle in both
        directions; one that is configured here must not be in the calibration too.
    clock
        ``arrival`` trusts the arrival of each picture. ``sender`` trusts the differences of the
        sender's times and fits its offset: the least of arrival less sender's time, over the last
        `FITTED_FRAMES` pictures, belongs to the picture that was held up least. So pictures that
        overtook each other get back in order. Pictures without a sender's time: by arrival.
    """
    offsets: deque[float] = deque(maxlen=FITTED_FRAMES)

    def date(arrival: float, sender_time: float) -> float:
        if clock == "arrival" or math.isnan(sender_time):
            return arrival - delay_s
        offsets.append(arrival - sender_time)
        return sender_time + min(offsets) - delay_s

    return date

"""Samples of four diodes: the columns of the file, and a simulated monitor."""

import numpy as np

from skywright.acquire.columns_layout import ColumnsLayout, Rows
from skywright.acquire.pacing import PacedSource
from skywright.files.columns import Column

NUMBER = Column("/entry/sample_number", "<i8")
TIME = Column("/entry/sample_time", "<f8", attrs={"units": "s"})
CURRENTS = Column("/entry/currents", "<f8", (4,), attrs={"units": "uA"})
LAYOUT = ColumnsLayout("samples", (TIME, CURRENTS), NUMBER)

RATE_HZ = 1000.0
PACKET = 20
"""Samples that the electronics sends together."""
SCALE_MM = 2.0
"""Displacement of the beam at which one pair of diodes would get all of the light."""
TOTAL_UA = 40.0
NOISE_UA = 0.05


class SimulatedMonitor(PacedSource[Rows]):
    """A beam at rest, with noise on each diode.

    Parameters
    ----------
    x_mm, y_mm
        Position of the beam; its size is at most `SCALE_MM`.
    seed
        Seed of the noise.
    speed
        Factor on the rate.
    """

    def __init__(self, x_mm: float, y_mm: float, seed: int = 0, speed: float = 1.0) -> None:
        super().__init__("sim", self._packet, PACKET / RATE_HZ / speed)
        self.x_mm, self.y_mm = x_mm, y_mm
        self._noise = np.random.default_rng(seed)

    def _packet(self, number: int, now: float) -> Rows:
        """Return the samples of packet `number`; the last one is taken at `now`, unix s."""
        index = np.arange(PACKET)
        right, top = self.x_mm / SCALE_MM, self.y_mm / SCALE_MM
        ideal = TOTAL_UA / 4 * np.array([1 + right, 1 - right, 1 + top, 1 - top])
        return Rows(
            number * PACKET + index,
            {
                TIME.path: now - (PACKET - 1 - index) / RATE_HZ,
                CURRENTS.path: self._noise.normal(ideal, NOISE_UA, (PACKET, 4)),
            },
        )

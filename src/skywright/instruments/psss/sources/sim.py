"""Pulses of the simulated instrument."""

import threading
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.pacing import PacedSource, period_of
from skywright.errors import ConfigError
from skywright.instruments.psss.pulse import Pulse
from skywright.instruments.psss.twin import Instrument, InstrumentSettings, Truth

PULSE_RATE_HZ = 100.0
"""Rate of the machine: its pulse id grows by 1 every 10 ms."""


class SimSource(PacedSource[Pulse]):
    """The twin of the instrument at the machine's clock.

    Parameters
    ----------
    settings
        Settings of the instrument: size of the picture, noise and physics.
    rate_hz
        Pulses a second; 0 as fast as they are taken. Below 100 Hz pulse ids come in steps. At a
        rate that does not divide 100 Hz the machine has another rate, the nearest that the rate
        divides: 120 Hz for 60 Hz, 200 Hz for 200 Hz.
    speed
        Factor on the rate of the pulses, not on their times: at a speed above 1 the times run ahead
        of the clock. So do they with rate 0.
    seed
        Pulses of the same id are the same with the same seed and settings.
    first_pulse_id
        Pulse id of the first pulse after the first start. None: the number of the machine's pulses
        since 1970, so that ids grow from one start to the next, also in a new process.
    reel
        Number of pictures that are rendered before the start and repeated, for tests that must not
        spend a core on rendering; 0: each pulse has its own picture.

    Attributes
    ----------
    beam
        False: pictures have no light, as when the beam is shut off to take a background.
    silent
        True: no pulse comes, as from a camera that stalls; the machine's clock goes on.

    Raises
    ------
    ConfigError
        If a rate or the speed is below 0.
    """

    def __init__(
        self,
        settings: InstrumentSettings | None = None,
        *,
        rate_hz: float = PULSE_RATE_HZ,
        speed: float = 1.0,
        seed: int = 0,
        first_pulse_id: int | None = None,
        reel: int = 0,
    ) -> None:
        if min(rate_hz, speed) < 0.0:
            raise ConfigError(f"rate {rate_hz} Hz, speed {speed}: expected 0 or more")
        period_s = period_of(rate_hz * speed)
        super().__init__("sim", self._pulse, period_s, period_min_s=None, item_name="pulse")
        self._pacer.end()  # no pulse comes before the first start
        self.settings = settings or InstrumentSettings()
        self.beam = True
        self.silent = False
        self.rate_hz = rate_hz
        self.seed = seed
        self.reel = reel
        self._first = first_pulse_id
        self._pictures: list[tuple[NDArray[np.uint16], Truth]] = []
        self._step = max(round(PULSE_RATE_HZ / rate_hz), 1) if rate_hz else 1
        self._id_period_ns = round(1e9 / (rate_hz * self._step if rate_hz else PULSE_RATE_HZ))
        self._instrument_lock = threading.Lock()
        """Held while the twin is made, which takes seconds."""
        self._instrument: Instrument | None = None
        self._id_of_first = 0
        """Pulse id of the pulse that has the number 0 at the present clock."""
        self._time_of_zero_ns = 0

    @property
    def instrument(self) -> Instrument:
        """The twin; the first call renders its pool of noise."""
        with self._instrument_lock:
            if self._instrument is None:
                self._instrument = Instrument(self.settings, self.seed)
                self._instrument.take(0)  # compiles, or reads what was compiled before
            return self._instrument

    def prepare(self) -> None:
        """Render the pool of noise and the reel now; otherwise the first start renders them."""
        instrument = self.instrument
        if len(self._pictures) < self.reel:
            self._pictures = [
                instrument.take(number, light=self.beam) for number in range(self.reel)
            ]

    def open(self) -> None:
        """Start the machine's clock; pulse ids go on from the last start."""
        self.prepare()
        now_ns = time.time_ns()
        first = now_ns // self._id_period_ns if self._first is None else self._first
        before = self._number * self._step
        next_id = max(first, self._id_of_first + before)
        self._id_of_first = next_id - before
        self._time_of_zero_ns = now_ns - next_id * self._id_period_ns
        super().open()

    def next(self, timeout_s: float) -> Pulse | None:
        """Wait until the next pulse is due, and return it; None after `timeout_s`."""
        if self.silent:
            self._pacer.pause(timeout_s)
            return None
        return super().next(timeout_s)

    def _pulse(self, number: int, _time: float) -> Pulse:
        pulse_id = self._id_of_first + number * self._step
        if self._pictures:
            image, truth = self._pictures[pulse_id % self.reel]
            truth = replace(truth, pulse_id=pulse_id)
        else:
            image, truth = self.instrument.take(pulse_id, light=self.beam)
        time_ns = self._time_of_zero_ns + pulse_id * self._id_period_ns
        # The value that a gas monitor beside the spectrometer would measure
        energy = float(truth.pulse_energy_uj)
        return Pulse(pulse_id, time_ns, image, truth=truth, energy_uj=energy)

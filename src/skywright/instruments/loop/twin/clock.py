"""When frames are exposed, when they arrive, and which never do.

The camera runs on its own clock: `camera = offset + (1 + drift) * motors`. Each frame's fate is a
pure function of the seed and its number, so frames can be asked for in any order.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from skywright.errors import ConfigError


@dataclass(frozen=True)
class FrameTiming:
    """Times of one frame.

    Attributes
    ----------
    number : int
        As the camera counts, lost frames included.
    start_s, end_s : exposure, s of the motors' clock.
    camera_time_s : middle of the exposure, s of the camera's clock.
    latency_s : from the end of the exposure to the arrival.
    arrival_s : s of the motors' clock; NaN for a lost frame.
    lost, doubled : bool
    """

    number: int
    start_s: float
    end_s: float
    camera_time_s: float
    latency_s: float
    arrival_s: float
    lost: bool
    doubled: bool


@dataclass(frozen=True)
class FrameClock:
    """The timing of a free-running camera.

    Parameters
    ----------
    fps : float
        On the camera's clock.
    exposure_s : float
    jitter_s : float
        Rms of the start of an exposure.
    latency_min_s, latency_max_s : float
        Bounds of the latency; most frames are near the lower, a few late.
    latency_spread_s : float
        Mean of what is added to the lower bound. Frames may overtake each other.
    lost_fraction : float
        Of frames; half of them in bursts of up to `burst`.
    burst : int
    doubled_fraction : float
    offset_s, drift : float
        Of the camera's clock against the motors'; drift 1e-4 is 100 ppm.
    start_s : float
        Time of frame 0, motors' clock.
    seed : int

    Raises
    ------
    ConfigError
        If a rate, time or fraction makes no sense.
    """

    fps: float = 30.0
    exposure_s: float = 1.0 / 60.0
    jitter_s: float = 0.0005
    latency_min_s: float = 0.06
    latency_max_s: float = 0.3
    latency_spread_s: float = 0.04
    lost_fraction: float = 0.0
    burst: int = 4
    doubled_fraction: float = 0.0
    offset_s: float = 0.0
    drift: float = 0.0
    start_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.fps > 0.0 and 0.0 <= self.exposure_s <= 1.0 / self.fps + 1e-12):
            raise ConfigError(
                f"FrameClock: exposure {self.exposure_s} s must be 0..1/fps at {self.fps} fps"
            )
        if not 0.0 <= self.latency_min_s <= self.latency_max_s:
            raise ConfigError(
                f"FrameClock: latency {self.latency_min_s}..{self.latency_max_s} s is no range"
            )
        if not (0.0 <= self.lost_fraction <= 1.0 and 0.0 <= self.doubled_fraction <= 1.0):
            raise ConfigError("FrameClock: lost and doubled fractions must be 0..1")

    def camera_time(self, motor_time_s: float) -> float:
        """Return the camera's clock at a time of the motors' clock."""
        return self.offset_s + (1.0 + self.drift) * motor_time_s

    def frame(self, number: int) -> FrameTiming:
        """Return the timing of one frame, the same whenever it is asked for."""
        rng = np.random.default_rng([self.seed, number])
        period = 1.0 / (self.fps * (1.0 + self.drift))
        # Bounded, so that exposures keep their order.
        limit = 0.4 * (1.0 / self.fps - self.exposure_s) + 1e-12
        jitter = float(np.clip(rng.normal(0.0, self.jitter_s), -limit, limit))
        start = self.start_s + number * period + jitter
        end = start + self.exposure_s
        extra = float(rng.gamma(2.0, self.latency_spread_s / 2.0))
        latency = min(self.latency_min_s + extra, self.latency_max_s)
        lost = bool(rng.random() < 0.5 * self.lost_fraction) or self._in_burst(number)
        return FrameTiming(
            number=number,
            start_s=start,
            end_s=end,
            camera_time_s=self.camera_time((start + end) / 2.0),
            latency_s=latency,
            arrival_s=float("nan") if lost else end + latency,
            lost=lost,
            doubled=bool(rng.random() < self.doubled_fraction) and not lost,
        )

    def first_after(self, time_s: float) -> int:
        """Return the number of the first frame whose nominal start is not before a time."""
        period = 1.0 / (self.fps * (1.0 + self.drift))
        return max(int(np.ceil((time_s - self.start_s) / period - 1e-9)), 0)

    def frames(self, begin_s: float, end_s: float) -> Iterator[FrameTiming]:
        """Yield the frames, lost ones too, whose nominal start is in begin_s..end_s."""
        for number in range(self.first_after(begin_s), self.first_after(end_s)):
            yield self.frame(number)

    def _in_burst(self, number: int) -> bool:
        """Tell whether a run of `burst` frames that this one belongs to is lost as a whole."""
        if self.lost_fraction <= 0.0:
            return False
        run = np.random.default_rng([self.seed, number // self.burst, 1])
        left = 1.0 - 0.5 * self.lost_fraction
        return bool(run.random() < 0.5 * self.lost_fraction / left)

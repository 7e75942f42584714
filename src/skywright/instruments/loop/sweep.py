"""An oscillation as it is asked for: from where, how far, in what time."""

import math
from dataclasses import dataclass

from skywright.errors import ConfigError

LONGEST_S = 3600.0


@dataclass(frozen=True)
class Sweep:
    """A turn of the spindle while the trigger is open; `ConfigError` if a number makes no sense."""

    delta_deg: float
    """Signed angle, not 0."""
    time_s: float
    """Time that the window is open, s."""
    start_deg: float | None = None
    """Angle at which the window opens; None is where the spindle stands."""
    run_up: bool = True
    """True: the spindle is at constant speed while the window is open. False: it accelerates and
    slows down within the window, as simple controllers do."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta_deg) and self.delta_deg != 0.0):
            raise ConfigError(f"oscillation: delta {self.delta_deg} deg, expected not 0 and finite")
        if not 0.0 < self.time_s <= LONGEST_S:
            raise ConfigError(
                f"oscillation: time {self.time_s} s, expected more than 0, at most {LONGEST_S:g} s"
            )
        if self.start_deg is not None and not math.isfinite(self.start_deg):
            raise ConfigError(f"oscillation: start {self.start_deg} deg, expected a finite angle")

    @property
    def rate_deg_s(self) -> float:
        """Mean signed speed, deg/s."""
        return self.delta_deg / self.time_s

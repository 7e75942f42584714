"""How many pulses are missing between those that came."""

import logging
from dataclasses import dataclass

logger = logging.getLogger(__name__)

PULSES_A_DAY = 24 * 3600 * 100
"""A jump of the pulse id by more than this is another clock, not lost pulses."""

SAME_TO_BELIEVE = 200
"""This number of differences larger than the step, all multiples of the first, is another rate of
the machine, no loss; a step that held for this number of pulses was the right one."""


@dataclass(slots=True)
class Stretch:
    """Pulses whose ids grow by one step."""

    first: int
    last: int
    step: int
    came: int = 1
    bad: int = 0

    @property
    def missing(self) -> int:
        """Those between first and last that did not come, less those that came undecodable."""
        if self.came < 2:
            return 0
        return max((self.last - self.first) // self.step + 1 - self.came - self.bad, 0)


class PulseGaps:
    """Count the pulses missing in a growing sequence of pulse ids.

    The step between pulses is the one given, or the one above 1 that the sender declares, or else
    the smallest difference seen. What is missing is worked out from first and last of a stretch, so
    a step that is learnt late corrects what was counted before. A stretch ends where the ids go
    back, and where the machine is found to have changed its rate.

    Parameters
    ----------
    step
        Pulse ids from one pulse to the next; None to learn it.
    """

    def __init__(self, step: int | None = None) -> None:
        self._given = step
        self._missing_before = 0
        """Of the stretches before the present one."""
        self._now: Stretch | None = None
        self._bad_pending = 0
        # Differences larger than the step: their number, the first, the stretch before them.
        self._longer, self._candidate = 0, 0
        self._before: Stretch | None = None

    @property
    def missing(self) -> int:
        """Pulses that never came, less those that came as something undecodable."""
        return self._missing_before + (self._now.missing if self._now else 0)

    def interrupt(self) -> None:
        """Begin a new stretch with the next pulse: what passes until then was not asked for."""
        if self._now is not None:
            missing, self._now = self._now.missing, None
            self._missing_before += missing
        self._longer, self._before = 0, None

    def undecodable(self) -> None:
        """Note that something came which was perhaps a pulse."""
        self._bad_pending += 1

    def take(self, pulse_id: int, modulo: int | None = None) -> bool:
        """Note a pulse; say whether it is another one than the last.

        Parameters
        ----------
        pulse_id
            Of the pulse.
        modulo
            The step that its sender declares, if any.
        """
        now = self._now
        step = self._given or (modulo if modulo and modulo > 1 else 0)
        if now is None:
            self._bad_pending = 0  # of pulses before this one, of which none is missing
            self._begin(pulse_id, step)
            return True
        apart = pulse_id - now.last
        if apart == 0:
            return False
        if not 0 < apart <= PULSES_A_DAY:
            self._bad_pending = 0
            self._begin(pulse_id, step)
            return True
        if step and step != now.step:
            self._begin(now.last, step)  # what was missing by the old step stays counted
        self._go_on(pulse_id, apart, learn=not step)
        return True

    def _go_on(self, pulse_id: int, apart: int, *, learn: bool) -> None:
        now = self._now
        assert now is not None
        if learn:
            if apart < now.step and now.came >= SAME_TO_BELIEVE:
                now = self._begin(now.last, apart)  # the rate has gone up
            self._watch_rate(now, apart)
            now.step = min(now.step or apart, apart)
        now.bad += min(self._bad_pending, max(apart // now.step - 1, 0))
        self._bad_pending = 0
        now.last = pulse_id
        now.came += 1
        if self._before is not None and self._longer >= SAME_TO_BELIEVE:
            before, step = self._before, self._candidate
            logger.warning("pulse ids come in steps of %d now, not %d", step, now.step)
            self._missing_before += before.missing
            bad = now.bad - before.bad
            self._now = Stretch(before.last, pulse_id, step, self._longer + 1, bad)
            self._before, self._longer = None, 0

    def _watch_rate(self, now: Stretch, apart: int) -> None:
        if apart <= now.step:
            self._before, self._longer = None, 0
            return
        if self._before is None or apart % self._candidate:
            self._before = Stretch(now.first, now.last, now.step, now.came, now.bad)
            self._longer, self._candidate = 0, apart
        self._longer += 1

    def _begin(self, first: int, step: int) -> Stretch:
        self._missing_before += self._now.missing if self._now else 0
        self._now = Stretch(first, first, step)
        self._before, self._longer = None, 0
        return self._now

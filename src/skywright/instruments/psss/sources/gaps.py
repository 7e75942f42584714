"""Counts the pulses that are missing between those that came."""

import logging
import math
from collections import deque
from dataclasses import dataclass, replace

logger = logging.getLogger(__name__)

PULSES_A_DAY = 24 * 3600 * 100
"""A jump of the pulse id by more than this is a change of the clock: no pulses were lost."""

LATE_PULSES = 10
"""Greatest number of pulses by which a missing one may come late, overtaken by later ones. A pulse
that goes back further begins a new stretch."""

PULSES_TO_CONFIRM = 200
"""Number of pulses that shows a change of the machine's rate.

Lower rate: this number of successive differences are larger than the step, and multiples of the
first of them. Then no pulses were lost. If pulses come late meanwhile, they are counted too, and
the differences are multiples of a divisor of the first that is larger than the step. Higher rate:
a difference is smaller than the step, which held for this number of pulses. Then what was counted
with the old step stays. If the step held for fewer pulses, it was too large from the beginning, and
these pulses are counted again."""


@dataclass(slots=True)
class Stretch:
    """Successive pulses whose ids grow in multiples of one step.

    `undecodable` of them could not be decoded.
    """

    first: int
    last: int
    step: int
    received: int = 1
    undecodable: int = 0

    @property
    def missing(self) -> int:
        """Number of pulses between `first` and `last` that did not come at all."""
        if self.received < 2:
            return 0
        pulses = (self.last - self.first) // self.step + 1
        return max(pulses - self.received - self.undecodable, 0)

    def misses(self, pulse_id: int) -> bool:
        """Return whether a pulse that comes late may be one of the missing ones."""
        late = self.last - pulse_id
        is_near = self.missing > 0 and 0 < late <= LATE_PULSES * self.step
        return is_near and pulse_id > self.first and late % self.step == 0


class PulseGaps:
    """Counts the pulses that are missing in a growing sequence of pulse ids.

    The step between pulses is the parameter `step`, or the step above 1 that the sender declares,
    or else the smallest difference seen. A declared step that does not divide a difference is not
    the step of the messages, and is not used any more. The missing pulses are computed from the
    first and the last pulse of a stretch. So a step that is learnt late corrects what was counted
    before. A stretch ends where the ids go back to its first one, or before the last pulses, or
    jump by more than `PULSES_A_DAY`, where another step is declared, and where the machine has
    changed its rate. It does not end where a missing pulse comes late (`LATE_PULSES`).

    Parameters
    ----------
    step
        Difference between the ids of successive pulses; None: it is learnt.
    """

    def __init__(self, step: int | None = None) -> None:
        self._given = step
        self._declared, self._refuted = 0, 0
        """The step declared last, and the one that did not divide a difference; 0: none."""
        self._missing_before = 0
        """Number of pulses missing in the stretches before the present one."""
        self._now: Stretch | None = None
        self._recent: deque[int] = deque(maxlen=2 * LATE_PULSES)
        """Ids of the last pulses, in the order in which they came."""
        self._undecodable_pending = 0
        # Successive differences larger than the step: their number, their divisor, and the
        # stretch as it was before them
        self._longer, self._candidate = 0, 0
        self._before: Stretch | None = None

    @property
    def missing(self) -> int:
        """Number of pulses that never came; those that came undecodable are not included."""
        now = self._now
        return self._missing_before + (now.missing if now else 0)

    def interrupt(self) -> None:
        """Begin a new stretch with the next pulse: pulses until then are not missing."""
        if self._now is not None:
            missing, self._now = self._now.missing, None
            self._missing_before += missing
        self._recent.clear()

    def undecodable(self) -> None:
        """Note that a message came which cannot be decoded and may have been a pulse."""
        self._undecodable_pending += 1

    def take(self, pulse_id: int, modulo: int | None = None) -> bool:
        """Note a pulse; return False if it is a repeat of one of the last, and True otherwise.

        The first id of the stretch is no repeat: the sender begins anew.

        Parameters
        ----------
        pulse_id
            Id of the pulse.
        modulo
            Step that the sender declares; None: it declares none.
        """
        now = self._now
        if now is not None and pulse_id == now.first != now.last:
            self._recent.clear()  # the sender begins anew
        if pulse_id in self._recent:
            return False
        self._recent.append(pulse_id)
        apart = pulse_id - now.last if now else 0
        declared = modulo if modulo and modulo > 1 else 0
        last, self._declared = self._declared, declared or self._declared
        if last and last == self._declared and apart % last and 0 < apart <= PULSES_A_DAY:
            self._refuted = last
        step = self._given or (declared if declared != self._refuted else 0)
        if now is not None and now.misses(pulse_id):
            now.received += 1
            if self._before is not None:
                self._watch_late(now, self._before, pulse_id)
            return True
        if now is None or not 0 < apart <= PULSES_A_DAY:
            # They came before this pulse, and no pulse before it is missing
            self._undecodable_pending = 0
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
            if apart < now.step and now.received >= PULSES_TO_CONFIRM:
                now = self._begin(now.last, apart)  # the rate has gone up
            self._watch_rate(now, apart)
            now.step = min(now.step or apart, apart)
        now.undecodable += min(self._undecodable_pending, max(apart // now.step - 1, 0))
        self._undecodable_pending = 0
        now.last = pulse_id
        now.received += 1
        if self._before is not None and self._longer >= PULSES_TO_CONFIRM:
            before, step = self._before, self._candidate
            logger.warning("pulse ids come in steps of %d now, not %d", step, now.step)
            self._missing_before += before.missing
            undecodable = now.undecodable - before.undecodable
            self._now = Stretch(before.last, pulse_id, step, self._longer + 1, undecodable)
            self._before, self._longer = None, 0

    def _watch_rate(self, now: Stretch, apart: int) -> None:
        if apart <= now.step:
            self._before, self._longer = None, 0
            return
        if self._before is None or apart % self._candidate:
            self._before = replace(now)
            self._longer, self._candidate = 0, apart
        self._longer += 1

    def _watch_late(self, now: Stretch, before: Stretch, pulse_id: int) -> None:
        """Note a late pulse while the rate may have fallen."""
        if pulse_id < before.last:  # of the old rate
            before.received += 1
            return
        self._candidate = math.gcd(self._candidate, now.last - pulse_id)
        self._longer += 1
        if self._candidate <= now.step:  # the rate of the machine is not lower
            self._before, self._longer = None, 0

    def _begin(self, first: int, step: int) -> Stretch:
        self._missing_before += self._now.missing if self._now else 0
        self._now = Stretch(first, first, step)
        self._before, self._longer = None, 0
        return self._now

"""Recording of a background from the pulses, for all endpoints."""

import threading

from skywright.errors import HardwareError
from skywright.instruments.psss.background import Background, record, record_limit_s
from skywright.instruments.psss.endpoints.parameters import Parameters

CANCEL_S = 5.0


class BackgroundRecorder:
    """Records backgrounds and uses them, one at a time; any thread.

    Parameters
    ----------
    parameters
        Of the processing.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._changed = threading.Condition()
        self._cancelled: threading.Event | None = None
        """Cancels the recording under way; None: there is none."""

    def record(
        self,
        pulses: int,
        name: str = "",
        limit_s: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> Background:
        """Use the mean of the next pictures as background, from the next pulse on.

        Parameters
        ----------
        pulses
            Pictures to take.
        name
            Label; empty makes one of the date.
        limit_s
            Time to wait for them; None: as `record_limit_s` has it.
        cancelled
            Cancels this recording when it is set.

        Returns
        -------
        Background
            The one in use; not yet in the history.

        Raises
        ------
        ConfigError
            If the number of pulses is not allowed.
        HardwareError
            If a background is being recorded, not enough pictures of one size come in time, or the
            recording is cancelled; the last background stays in use.
        """
        cancelled = cancelled or threading.Event()
        with self._changed:
            if self._cancelled is not None:
                raise HardwareError("a background is being recorded; wait until it is in use")
            self._cancelled = cancelled
        try:
            limit_s = limit_s or record_limit_s(pulses)
            found = record(self._parameters.processor, pulses, name, limit_s, cancelled)
            self._parameters.use(found)
        finally:
            with self._changed:
                self._cancelled = None
                self._changed.notify_all()
        return found

    def cancel(self) -> None:
        """Cancel the recording under way, if any, and return when it is over.

        Raises
        ------
        HardwareError
            If it does not end within `CANCEL_S`.
        """
        with self._changed:
            cancelled = self._cancelled
            if cancelled is None:
                return
            cancelled.set()
            if not self._changed.wait_for(lambda: self._cancelled is not cancelled, CANCEL_S):
                raise HardwareError(f"the background's recording did not end in {CANCEL_S:g} s")

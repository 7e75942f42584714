"""Recording of a background from the pulses, for all endpoints."""

import threading

from skywright.errors import HardwareError
from skywright.instruments.psss.background import Background, record, record_limit_s
from skywright.instruments.psss.endpoints.parameters import Parameters

CANCEL_S = 5.0


class BackgroundRecorder:
    """Records backgrounds and uses them, one at a time. Thread-safe.

    Parameters
    ----------
    parameters
        Parameters of the processing.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._changed = threading.Condition()
        self._cancelled: threading.Event | None = None
        """Event that cancels the recording in progress; None: there is none."""

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
            Number of pictures.
        name
            Label; empty: a label with the date.
        limit_s
            Timeout, s; None: `record_limit_s`.
        cancelled
            Event that cancels this recording when it is set.

        Returns
        -------
        Background
            The background, which is in use and not yet in the history.

        Raises
        ------
        ConfigError
            If the number of pulses is not allowed.
        HardwareError
            If another recording is in progress, not enough pictures of one size come in time, or
            the recording is cancelled. The last background then stays in use.
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
        """Cancel the recording in progress, if any, and return when it has ended.

        Raises
        ------
        HardwareError
            If the recording does not end within `CANCEL_S`.
        """
        with self._changed:
            cancelled = self._cancelled
            if cancelled is None:
                return
            cancelled.set()
            if not self._changed.wait_for(lambda: self._cancelled is not cancelled, CANCEL_S):
                raise HardwareError(f"the background's recording did not end in {CANCEL_S:g} s")

"""An item on its way through an owner: from the source to endpoints and recorders."""

from dataclasses import dataclass
from typing import Any

from skywright.acquire.acquisition import Acquisition, RefusedError


class NotProcessedError(RefusedError):
    """Refuses an item after an unexpected error of `process_argument`, `process` or `prepare`.

    `__cause__` is that error.
    """


@dataclass(slots=True)
class PendingItem:
    """An item that an owner has not finished with.

    Attributes
    ----------
    acquisition
        Acquisition to which the item belongs; None: to none.
    argument
        Argument of `process`.
    result
        Result for endpoints and subscribers.
    has_result
        Whether there is a result; a result may be None.
    to_record
        What the recorders get; None: nothing.
    refused
        Why the item is refused, so that it does not count; None: it is not refused.
    """

    acquisition: Acquisition | None
    argument: Any = None
    result: Any = None
    has_result: bool = False
    to_record: Any = None
    refused: RefusedError | None = None

    def refuse(self, error: Exception) -> None:
        """Refuse the item; any other error than `RefusedError` counts as ``not processed``."""
        if not isinstance(error, RefusedError):
            cause = error
            error = NotProcessedError("not processed", f"{type(cause).__name__}: {cause}")
            error.__cause__ = cause
        self.refused, self.to_record = error, error.result

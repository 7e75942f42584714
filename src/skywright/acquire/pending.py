"""An item on its way through an owner: from the source to endpoints and recorders."""

from collections.abc import Callable
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


def process_item(
    item: PendingItem,
    process: Callable[[Any], Any] | None,
    prepare: Callable[[Any], Any] | None,
) -> None:
    """Process an item, unless it is refused; an error of `process` or `prepare` refuses it.

    Parameters
    ----------
    item
        The item, in which the result is kept.
    process, prepare
        As for `skywright.acquire.owner.Owner`.
    """
    if item.refused is not None:
        return
    try:
        item.result = item.argument if process is None else process(item.argument)
        item.has_result, item.to_record = True, item.result
        acquisition = item.acquisition
        if prepare is not None and acquisition is not None and not acquisition.is_final:
            item.to_record = prepare(item.result)
    except Exception as error:  # the next item may be good
        item.refuse(error)

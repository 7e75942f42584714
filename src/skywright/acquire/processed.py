"""Processing of one item: from what a source delivers to what endpoints and recorders get."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from skywright.acquire.acquisition import Acquisition, RefusedError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessedItem:
    """An item after `process` and `prepare` of an owner.

    Attributes
    ----------
    result
        Result for endpoints and subscribers; None if `process` refused the item.
    has_result
        Whether there is a result; a result may be None.
    recorded
        What the recorders get; None: nothing.
    refused
        Why the item is not part of the acquisition.
    acquisition
        Acquisition to which the item belongs.
    """

    result: Any
    has_result: bool
    recorded: Any
    refused: RefusedError | None
    acquisition: Acquisition | None


def process_item(
    item: Any,
    acquisition: Acquisition | None,
    process: Callable[[Any], Any] | None,
    prepare: Callable[[Any], Any] | None,
    name: str,
) -> ProcessedItem:
    """Process an item; an error of `process` or `prepare` refuses it.

    Parameters
    ----------
    item, acquisition
        Item, and the acquisition to which it belongs.
    process, prepare
        As for `skywright.acquire.owner.Owner`.
    name
        Name of the item in the log.
    """
    result: Any = None
    has_result = False
    try:
        result = item if process is None else process(item)
        has_result = True
        recorded = result
        if acquisition is not None and not acquisition.is_final and prepare is not None:
            recorded = prepare(result)
    except RefusedError as error:
        return ProcessedItem(result, has_result, error.result, error, acquisition)
    except Exception as error:  # the next item may be good
        logger.exception("%s cannot be processed", name)
        refused = RefusedError("not processed", f"{type(error).__name__}: {error}")
        return ProcessedItem(result, has_result, None, refused, acquisition)
    return ProcessedItem(result, True, recorded, None, acquisition)

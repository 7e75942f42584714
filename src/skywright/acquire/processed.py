"""Processing of one item: from what a source delivers to what endpoints and recorders get."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from skywright.acquire.acquisition import Acquisition, RefusedError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ArrivedItem:
    """An item before `process` of an owner.

    Attributes
    ----------
    argument
        Argument of `process`; None if the item is refused.
    refused
        Why the item is not part of the acquisition.
    acquisition
        Acquisition to which the item belongs.
    """

    argument: Any
    refused: RefusedError | None
    acquisition: Acquisition | None


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


def arrive(
    item: Any, acquisition: Acquisition | None, argument_of: Callable[[Any], Any], name: str
) -> ArrivedItem:
    """Return an item with its argument of `process`; an error of `argument_of` refuses it.

    Parameters
    ----------
    item, acquisition
        Item, and the acquisition to which it belongs.
    argument_of
        Returns the argument of `process` for the item.
    name
        Name of the item in the log.
    """
    try:
        return ArrivedItem(argument_of(item), None, acquisition)
    except Exception as error:  # the next item may be good
        return ArrivedItem(None, _refusal(error, name), acquisition)


def process_item(
    arrived: ArrivedItem,
    process: Callable[[Any], Any] | None,
    prepare: Callable[[Any], Any] | None,
    name: str,
) -> ProcessedItem:
    """Process an item, unless it is refused; an error of `process` or `prepare` refuses it.

    Parameters
    ----------
    arrived
        The item.
    process, prepare
        As for `skywright.acquire.owner.Owner`.
    name
        Name of the item in the log.
    """
    result: Any = None
    has_result = False
    acquisition, refused = arrived.acquisition, arrived.refused
    if refused is not None:
        return ProcessedItem(None, False, refused.result, refused, acquisition)
    try:
        result = arrived.argument if process is None else process(arrived.argument)
        has_result = True
        recorded = result
        if acquisition is not None and not acquisition.is_final and prepare is not None:
            recorded = prepare(result)
    except Exception as error:  # the next item may be good
        refused = _refusal(error, name)
        return ProcessedItem(result, has_result, refused.result, refused, acquisition)
    return ProcessedItem(result, True, recorded, None, acquisition)


def _refusal(error: Exception, name: str) -> RefusedError:
    """Return an error as the refusal of an item; log it if it is not one."""
    if isinstance(error, RefusedError):
        return error
    logger.error("%s cannot be processed", name, exc_info=error)
    return RefusedError("not processed", f"{type(error).__name__}: {error}")

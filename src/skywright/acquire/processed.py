"""Processing of one item: from what a source delivers to what endpoints and recorders get."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from skywright.acquire.acquisition import Acquisition, RefusedError


class NotProcessedError(RefusedError):
    """An unexpected error of `process` or `prepare`, which is its `__cause__`."""


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
    to_record
        What the recorders get; None: nothing.
    refused
        Why the item is not part of the acquisition.
    acquisition
        Acquisition to which the item belongs.
    """

    result: Any
    has_result: bool
    to_record: Any
    refused: RefusedError | None
    acquisition: Acquisition | None


def arrived_item(
    item: Any, acquisition: Acquisition | None, argument_of: Callable[[Any], Any]
) -> ArrivedItem:
    """Return an item with its argument of `process`; an error of `argument_of` refuses it.

    Parameters
    ----------
    item, acquisition
        Item, and the acquisition to which it belongs.
    argument_of
        Returns the argument of `process` for the item.
    """
    try:
        return ArrivedItem(argument_of(item), None, acquisition)
    except Exception as error:  # the next item may be good
        return ArrivedItem(None, _refusal(error), acquisition)


def process_item(
    arrived: ArrivedItem,
    process: Callable[[Any], Any] | None,
    prepare: Callable[[Any], Any] | None,
) -> ProcessedItem:
    """Process an item, unless it is refused; an error of `process` or `prepare` refuses it.

    Parameters
    ----------
    arrived
        The item.
    process, prepare
        As for `skywright.acquire.owner.Owner`.
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
        refused = _refusal(error)
        return ProcessedItem(result, has_result, refused.result, refused, acquisition)
    return ProcessedItem(result, True, recorded, None, acquisition)


def _refusal(error: Exception) -> RefusedError:
    """Return an error as the refusal of an item."""
    if isinstance(error, RefusedError):
        return error
    refusal = NotProcessedError("not processed", f"{type(error).__name__}: {error}")
    refusal.__cause__ = error
    return refusal

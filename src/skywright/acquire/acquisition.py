"""Types used by the owner and its clients: endpoints, acquisitions, refusals, the owner's state."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from skywright.errors import DataError

Result = TypeVar("Result")
Offered = TypeVar("Offered", contravariant=True)


class Endpoint(Protocol[Offered]):
    """Receives every result, in order: an output stream, running averages.

    PVs are not of this class: an IOC reads the newest result from `Owner.state`.
    """

    def offer(self, result: Offered) -> None:
        """Take a result. Must not block. An endpoint that drops results counts them itself."""


class RefusedError(DataError):
    """Raised to refuse an item, which does not count in the acquisition then.

    `Owner.process_argument`, the functions `process` and `prepare` of an `Owner`, and recorders may
    raise it; a recorder has counted the loss then. If the recorder is not essential, the item
    counts all the same.

    Parameters
    ----------
    cause
        Name under which the loss is counted.
    why
        Reason, for the message.
    result
        What is recorded although the item was refused, for example its raw bytes; None: nothing.
    """

    def __init__(self, cause: str, why: str, result: Any = None) -> None:
        super().__init__(why)
        self.cause = cause
        self.result = result


@dataclass(eq=False)
class Acquisition:
    """A request for items.

    Attributes
    ----------
    requested
        Requested number of items; 0: until it is stopped.
    items
        Number of items counted so far: processed, and not refused.
    stopping
        True after the stop or the last requested item: new items do not belong to the acquisition.
    is_final
        True when `items` is final; the recorders may still write.
    done
        Set after `is_final`, when the recorders have stored all items and readers can see them.
        Rows that could not be stored are counted as lost by then.
    on_item
        Called with results of the acquisition, see `Owner.acquire`; None: nothing is called.
    """

    requested: int = 0
    items: int = 0
    stopping: bool = False
    is_final: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    on_item: Callable[[Any], None] | None = None
    items_in_processing: int = 0
    """Number of items that have arrived and that the owner has not finished yet."""


@dataclass(frozen=True)
class OwnerState(Generic[Result]):
    """Snapshot of the owner's state.

    Attributes
    ----------
    running
        Whether the source was started.
    acquiring
        Whether there is an acquisition.
    newest
        The last result; None before the first.
    items
        Number of items that gave a result, since the object was made.
    acquired
        Number of items that acquisitions have counted.
    acquisition_items
        Number of items that the present or last acquisition has counted.
    lost
        Number of items lost in source, owner and essential recorders, by cause.
    failures
        Number of failures, by cause: errors of the source (its end is one), endpoints, recorders
        and callbacks, and rows that a recorder that is not essential could not store.
    message, alarm
        Message for the operator, and whether it needs an action.
    """

    running: bool = False
    acquiring: bool = False
    newest: Result | None = None
    items: int = 0
    acquired: int = 0
    acquisition_items: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    message: str = "idle"
    alarm: bool = False

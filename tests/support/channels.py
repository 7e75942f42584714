"""Channels of pyepics for tests, never freed.

pyepics ends a channel's subscription when the object is freed, which may be in any thread, that of
Channel Access' own callbacks too: it hangs there, or crashes.
"""

import threading
from collections.abc import Callable
from typing import Any

from epics import PV
from ioc_process import IocProcess

LIMIT_S = 120.0

_channels: dict[str, PV] = {}
_watching: list[PV] = []


def channel(name: str, hint: Callable[[], str] = str) -> PV:
    """Return a connected channel by its full name; `hint` says more when it is not there."""
    if name not in _channels:
        _channels[name] = PV(name, auto_monitor=False)
    assert _channels[name].wait_for_connection(timeout=LIMIT_S), f"{name}: not there\n{hint()}"
    return _channels[name]


def channels(ioc: IocProcess) -> Callable[[str], PV]:
    """Return the function that gives a channel of an IOC by its name without prefix."""
    return lambda name: channel(ioc.prefix + name, lambda: ioc.text)


def put(pv: PV, value: Any) -> None:
    """Put and wait for completion."""
    completed = pv.put(value, wait=True, timeout=LIMIT_S) == 1
    assert completed, f"{pv.pvname} = {value}: not completed"


def text(pv: PV) -> str:
    return pv.get(as_string=True)


def watch(name: str, callback: Callable[..., Any] | None = None, **how: Any) -> PV:
    """Return a channel that is told of changes, and tells `callback`, to the end of the tests.

    It has been told its value once: asked before that pyepics asks the server, and the answer, when
    it comes late, takes the place of what has been told meanwhile, until the next change.
    """
    told = threading.Event()
    callbacks = [lambda **_: told.set(), *([callback] if callback else [])]
    _watching.append(PV(name, auto_monitor=True, callback=callbacks, **how))
    assert _watching[-1].wait_for_connection(timeout=LIMIT_S), f"{name}: not there"
    assert told.wait(LIMIT_S), f"{name}: says nothing"
    return _watching[-1]

"""Pauses of a run, at a document."""

import threading
from collections.abc import Callable
from typing import Any

from bluesky import RunEngine


def pause_once(RE: RunEngine, is_time: Callable[[str, dict[str, Any]], bool]) -> None:
    """Request a pause, as Ctrl-C does, at the first document of which `is_time` is true."""
    paused = threading.Event()

    def watch(name: str, doc: dict[str, Any]) -> None:
        if not paused.is_set() and is_time(name, doc):
            paused.set()
            threading.Thread(target=RE.request_pause).start()  # beside the loop

    RE.subscribe(watch)


def is_event(number: int) -> Callable[[str, dict[str, Any]], bool]:
    """Return the condition that a document is the event of this sequence number."""
    return lambda name, doc: name == "event" and doc["seq_num"] == number


def is_later_report(name: str, doc: dict[str, Any]) -> bool:
    """Return whether a document reports rows after the first ones."""
    return name == "stream_datum" and doc["indices"]["start"] > 0

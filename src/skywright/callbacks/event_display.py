"""Filters for callbacks that show events: without values in files, and one run at a time."""

from collections.abc import Mapping
from typing import Any

from skywright.callbacks.isolated import Callback
from skywright.callbacks.run_ids import RunIds


def events_only(callback: Callback) -> Callback:
    """Return a callback that hides from `callback` the streams and hints whose values are in files.

    bluesky's BestEffortCallback prints an empty table, and opens empty plots, for fields whose
    values come in no event.
    """

    def pass_on(name: str, doc: Mapping[str, Any]) -> None:
        if name == "descriptor":
            in_files = {key for key, about in doc["data_keys"].items() if "external" in about}
            if in_files and in_files == set(doc["data_keys"]):
                return
            # A hint without `fields` is left out; bluesky shows all keys of its device either way
            hints = {
                device: {**hint, "fields": [f for f in hint["fields"] or () if f not in in_files]}
                for device, hint in (doc.get("hints") or {}).items()
                if hint and "fields" in hint
            }
            doc = {**doc, "hints": hints}
        callback(name, doc)

    return pass_on


def newest_run_only(callback: Callback) -> Callback:
    """Return a callback that passes to `callback` only the documents of the newest run.

    bluesky's BestEffortCallback forgets a run when another one begins, and fails on its events.
    """
    ids, newest = RunIds(), ""

    def pass_on(name: str, doc: Mapping[str, Any]) -> None:
        nonlocal newest
        run = ids.of(name, doc)
        if name == "start":
            newest = doc["uid"]
        if run == newest:
            callback(name, doc)

    return pass_on

"""Normalizes documents of any bluesky version for the rest of the store.

The result has no reserved names among the data keys, and no resource and datum documents.
"""

import copy
import re
from typing import Any

import jsonschema
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer

from skywright.errors import DataError
from skywright.store.journal_contents import RESERVED, unpack
from skywright.store.tail import Line

_NOT_IN_ADDRESSES = re.compile(r"[/\\?#%]")
PASSED = ("start", "dtypes", "stream_datum", "")


class DocumentNormalizer:
    """Normalizes the lines of one journal, in order."""

    def __init__(self) -> None:
        self._out: list[tuple[str, dict[str, Any]]] = []
        self._legacy = RunNormalizer()
        """Turns resources, datums and the events that refer to them into stream documents."""
        for name in ("stream_resource", "stream_datum", "descriptor"):
            self._legacy.subscribe(self._emit, name)
        self._datum_keys: dict[str, list[str]] = {}
        """Data keys whose values in events are datum ids, by uid of the descriptor."""
        self._renamed: set[str] = set()  # uids of descriptors with reserved names

    def __call__(self, line: Line) -> list[Line]:
        """Return the normalized lines of one line; a broken document gives a broken line."""
        try:
            self._take(line.name, line.doc)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            self._out.append(("", {"error": f"{line.name}: {type(error).__name__}: {error}"}))
        except jsonschema.ValidationError as error:
            self._out.append(("", {"error": f"{line.name}: {error.message}"}))
        except DataError as error:
            self._out.append(("", {"error": str(error)}))
        out, self._out = self._out, []
        return [Line(line.number, name, doc) for name, doc in out]

    def _emit(self, name: str, doc: dict[str, Any]) -> None:
        if name == "stream_resource":
            doc = doc | {"data_key": node_name(doc["data_key"])}
        if name != "descriptor":
            self._out.append((str(getattr(name, "name", name)), copy.deepcopy(doc)))

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        if name in ("event", "event_page"):
            for event in unpack(name, doc):
                self._take_event(event)
        elif name in PASSED:
            self._out.append((name, doc))
        elif name == "descriptor":
            self._take_descriptor(doc)
        elif name == "stop":
            if self._datum_keys:
                self._legacy.stop(doc)  # emits the datums that came before their resource
            self._out.append((name, doc))
        elif name in ("stream_resource", "resource", "datum", "datum_page"):
            self._legacy(name, doc)
        else:
            raise DataError(f"{name}: not a kind of document that runs have")

    def _take_descriptor(self, doc: dict[str, Any]) -> None:
        keys = doc["data_keys"]
        datum_keys = [k for k, v in keys.items() if "external" in v and v["external"] != "STREAM:"]
        if datum_keys:
            self._datum_keys[doc["uid"]] = datum_keys
            self._legacy("descriptor", doc)
        doc = doc | {"name": node_name(doc["name"])}
        if any(node_name(key) != key for key in keys):
            self._renamed.add(doc["uid"])
            names = doc.get("object_keys", {}).items()
            objects = {name: [node_name(key) for key in of] for name, of in names}
            doc |= {"data_keys": _renamed(keys), "object_keys": objects}
        self._out.append(("descriptor", doc))

    def _take_event(self, event: dict[str, Any]) -> None:
        uid = event["descriptor"]
        datum_keys = self._datum_keys.get(uid)
        if datum_keys:
            only = {key: event["data"][key] for key in datum_keys if key in event["data"]}
            times = {key: event["timestamps"].get(key, event["time"]) for key in only}
            self._legacy("event", event | {"data": only, "timestamps": times})
        if uid in self._renamed:
            data, times = _renamed(event["data"]), _renamed(event["timestamps"])
            event = event | {"data": data, "timestamps": times}
        self._out.append(("event", event))


def node_name(name: str) -> str:
    """Return the name of a stream or data key as a node or column may have it.

    A table has its own ``time`` and ``seq_num``. Characters with a meaning in URLs become
    underscores.
    """
    name = _NOT_IN_ADDRESSES.sub("_", name)
    return f"{name}_" if name in (*RESERVED, ".", "..") else name


def _renamed(mapping: dict[str, Any]) -> dict[str, Any]:
    return {node_name(key): value for key, value in mapping.items()}

"""Normalizes documents of any bluesky version for the rest of the store.

In the result no data key has a reserved name, no two data keys of a stream have one name, and
resource and datum documents are replaced by stream documents, event pages by events.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jsonschema
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer
from event_model import EventPage, unpack_event_page

from skywright.errors import DataError
from skywright.store.lookup import as_mapping, hinted_fields
from skywright.store.tail import Line, Tail
from skywright.store.tiled_writer import INTERNAL

RESERVED = ("time", "seq_num", ".", "..")
"""Names that no stream or data key can have in the store, in any case of letters: a table has its
own ``time`` and ``seq_num``, and URLs give a meaning to dots."""
_URL_SYNTAX = re.compile(r"[/\\?#%]")
_SQL_SYNTAX = re.compile(r"""['"`;()=+\x00-\x1f]|--""")
COLUMN_BYTES = 58
"""Maximum length of a column's name, bytes. tiled's limit is 63: 3 for the prefix ``ts_``, 58 for
the name, and 2 for underscores that make equal names different. If more underscores are needed, a
checksum replaces the end of the name."""
UNCHANGED = ("start", "stream_datum", "")
"""Names of lines that are returned as they are; a broken line has no name."""


class _StoredNames(dict[str, str]):
    """Stored names of streams or data keys, by their names in documents; no two are equal.

    Parameters
    ----------
    fold
        Maps a stored name to the form that must be unique.
    """

    def __init__(self, fold: Callable[[str], str]) -> None:
        self._fold = fold
        self._taken: set[str] = set()

    def store(self, name: str, wanted: str) -> str:
        """Return the stored name of `name`: the one that it has, else `wanted` made unique."""
        if name not in self:
            while self._fold(wanted) in self._taken:
                wanted += "_"
                if len(_utf8(wanted)) > COLUMN_BYTES + 2:
                    wanted = _shortened(wanted, wanted + name)
            self._taken.add(self._fold(wanted))
            self[name] = wanted
        return self[name]


class DocumentNormalizer:
    """Normalizes the lines of one journal, in order."""

    def __init__(self) -> None:
        self._out: list[tuple[str, dict[str, Any]]] = []
        self._legacy = RunNormalizer()
        """Converts resources, datums and the events that refer to them to stream documents."""
        for name in ("stream_resource", "stream_datum"):
            self._legacy.subscribe(self._emit, name)
        self._datums: set[str] = set()
        """Ids of the datums that have come, and that no event has named."""
        self._early: list[tuple[dict[str, Any], str]] = []
        """Events whose datum has not come yet, and the data key of this datum."""
        self._datum_keys: dict[str, list[str]] = {}
        """Data keys whose values in events are datum ids, by uid of the descriptor."""
        self._streams = _StoredNames(str)
        self._keys: dict[str, _StoredNames] = {}
        """Names of data keys, by stream."""
        self._external: dict[str, str] = {}
        """Stored names of the external data keys of all streams; a stream resource does not name
        its stream."""
        self._renamed: dict[str, dict[str, str]] = {}
        """Stored names of data keys, by uid of the descriptor, where one differs from its key."""

    def __call__(self, line: Line) -> list[Line]:
        """Return the normalized lines of one line; an error in it gives a broken line."""
        try:
            self._take(line.name, line.doc)
        except jsonschema.ValidationError as error:
            self._out.append(("", {"error": f"{line.name}: {error.message}"}))
        except DataError as error:
            self._out.append(("", {"error": str(error)}))
        except Exception as error:  # the lines after it must not be lost with it
            self._out.append(("", {"error": f"{line.name}: {type(error).__name__}: {error}"}))
        out, self._out = self._out, []
        return [Line(line.number, name, doc) for name, doc in out]

    def _emit(self, name: str, doc: dict[str, Any]) -> None:
        if name == "stream_resource":
            key = doc["data_key"]
            doc = doc | {"data_key": self._external.get(key, key_name(key))}
        self._out.append((name, doc))

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        if name == "event":
            self._take_event(doc)
        elif name == "event_page":
            for event in unpack_event_page(cast("EventPage", doc)):
                self._take_event(dict(event))
        elif name in UNCHANGED:
            self._out.append((name, doc))
        elif name == "dtypes":
            names = self._renamed.get(doc["descriptor"], {})
            self._out.append((name, doc | {"dtype_numpy": _rename_keys(doc["dtype_numpy"], names)}))
        elif name == "descriptor":
            self._take_descriptor(doc)
        elif name == "stop":
            try:
                self._take_early()
            finally:  # whatever fails, the run must end
                self._out.append((name, doc))
        elif name in ("stream_resource", "resource"):
            self._legacy(name, doc)
        elif name in ("datum", "datum_page"):
            ids = doc["datum_id"]
            self._legacy(name, doc)
            self._datums.update([ids] if name == "datum" else ids)
        else:
            raise DataError(f"{name}: not a kind of document that runs have")

    def _take_descriptor(self, doc: dict[str, Any]) -> None:
        keys = doc["data_keys"]
        datum_keys = [k for k, v in keys.items() if "external" in v and v["external"] != "STREAM:"]
        if datum_keys:
            self._datum_keys[doc["uid"]] = datum_keys
            self._legacy("descriptor", doc)
        wanted = node_name(doc["name"])
        stream = self._streams.store(doc["name"], wanted)
        self._note_if_changed(doc["name"], wanted, stream, doc["name"])
        # Servers do not tell columns apart whose names differ in case alone.
        names = self._keys.setdefault(stream, _StoredNames(str.lower))
        fitting = {k: key_name(k) if "external" in v else column_name(k) for k, v in keys.items()}
        # Keys that can be stored as they are keep their names.
        for key in sorted(keys, key=lambda key: fitting[key] != key):
            stored = names.store(key, fitting[key])
            self._note_if_changed(key, fitting[key], stored, f"{stream}/{key}")
        self._external |= {key: names[key] for key in keys if "external" in keys[key]}
        doc = doc | {"name": stream}
        if any(names[key] != key for key in keys):
            self._renamed[doc["uid"]] = names
            doc |= {
                "data_keys": _rename_keys(keys, names),
                "hints": {
                    # A hint without `fields` stays so: an empty list would show no key of it
                    device: {**hint, "fields": [names.get(key, key) for key in fields]}
                    if (fields := hinted_fields(hint))
                    else hint
                    for device, hint in as_mapping(doc.get("hints")).items()
                },
            }
        self._out.append(("descriptor", doc))

    def _note_if_changed(self, name: str, wanted: str, stored: str, what: str) -> None:
        """Note why a name is stored as another one, unless only characters of URLs differ."""
        plain = _URL_SYNTAX.sub("_", name)
        if stored == plain:
            return
        # `node_name` and `key_name` add an underscore to names that the table of events has
        is_taken = stored != wanted or wanted == f"{plain}_"
        why = "its name is taken" if is_taken else "no column can have its name"
        self._out.append(("note", {"text": f"{what}: stored as {stored}: {why}"}))

    def _take_event(self, event: dict[str, Any]) -> None:
        uid = event["descriptor"]
        datum_keys = self._datum_keys.get(uid)
        if datum_keys:
            given = {key: event["data"][key] for key in datum_keys if key in event["data"]}
            ids = {key: v for key, v in given.items() if not isinstance(v, list | dict)}
            for key in sorted(given.keys() - ids):
                text = f"{key}: left out: it is external, but its events have values, no datum ids"
                self._out.append(("note", {"text": text}))
            for key in ids:
                if ids[key] in self._datums:
                    self._take_datum(event, key)
                else:
                    self._early.append((event, key))
        if names := self._renamed.get(uid):
            data = _rename_keys(event["data"], names)
            times = _rename_keys(event["timestamps"], names)
            event = event | {"data": data, "timestamps": times}
        self._out.append(("event", event))

    def _take_datum(self, event: dict[str, Any], key: str) -> None:
        """Emit the datum that an event names, as stream documents."""
        datum_id = event["data"][key]
        self._datums.remove(datum_id)
        time = event["timestamps"].get(key, event["time"])
        self._legacy("event", event | {"data": {key: datum_id}, "timestamps": {key: time}})

    def _take_early(self) -> None:
        """Emit the datums that came after their event; note for how many events there is none."""
        missing: Counter[str] = Counter()
        for event, key in self._early:
            if event["data"][key] in self._datums:
                self._take_datum(event, key)
            else:
                missing[key] += 1
        for key, count in missing.items():
            text = (
                f"{key}: the datums of {count} events never came, or earlier events name them; "
                "their rows are left out"
            )
            self._out.append(("note", {"text": text}))


class NormalizedTail(Tail):
    """Reads a journal as `Tail` does; the lines are normalized."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._normalize = DocumentNormalizer()

    def read(self, end: int | None = None) -> list[Line] | None:
        """Return the next lines as `Tail.read` does.

        The list is empty if normalization drops every line.
        """
        chunk = super().read(end)
        return [new for line in chunk for new in self._normalize(line)] if chunk else None


def node_name(name: str) -> str:
    """Return the name of a stream or data key as a node or column may have it.

    Characters with a meaning in URLs become underscores; `RESERVED` names get one at the end.
    """
    name = _URL_SYNTAX.sub("_", name)
    return f"{name}_" if name.lower() in RESERVED else name


def key_name(name: str) -> str:
    """Return the name of a data key as a node beside the table of events may have it.

    Only names of columns of time stamps may begin with ``ts_``. Clients take the node ``internal``
    for the table of events; if it has many columns, the parts are ``internal_0`` and so on.
    """
    name = node_name(name)
    if re.fullmatch(rf"{INTERNAL}(_\d+)?", name):
        return f"{name}_"
    return f"x{name}" if name.lower().startswith("ts_") else name


def column_name(name: str) -> str:
    """Return the name of a data key of events as a column of a table may have it.

    It begins with a letter and has at most `COLUMN_BYTES` bytes; the end of a longer one is
    replaced by a checksum. Characters with a meaning in SQL become underscores.
    """
    column = key_name(_SQL_SYNTAX.sub("_", name))
    if not re.match("[a-zA-Z]", column):
        column = f"x{column}"
    return column if len(_utf8(column)) <= COLUMN_BYTES else _shortened(column, column)


def _shortened(column: str, unique: str) -> str:
    """Return a name of at most 56 bytes, its end a checksum of `unique`."""
    return f"{_utf8(column)[:47].decode(errors='ignore')}_{zlib.crc32(_utf8(unique)):08x}"


def _utf8(text: str) -> bytes:
    return text.encode(errors="replace")  # replaces lone surrogates


def _rename_keys(mapping: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in mapping.items()}

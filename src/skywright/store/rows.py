"""Events as rows of a stream's table: converted, each seq_num once, in order."""

from collections.abc import Iterator
from typing import Any

from skywright.store.columns import convert
from skywright.store.journal_contents import Stream


def stored_data_keys(stream: Stream) -> dict[str, dict[str, Any]]:
    """Return the data keys of a stream, with the types and shapes that are stored."""
    return {key: _stored(stream, key) for key in stream.data_keys}


def _stored(stream: Stream, key: str) -> dict[str, Any]:
    data_key = dict(stream.data_keys[key])
    column = stream.columns.get(key)
    if "external" in data_key or column is None:
        return data_key
    if column.kind == "array":
        shape = [max(length, 1) for length in column.shape]
        return data_key | {"dtype": "array", "dtype_numpy": column.dtype, "shape": shape}
    if data_key.get("dtype") != column.kind:
        data_key.pop("dtype_numpy", None)
    return data_key | {"dtype": column.kind, "shape": []}


def type_notes(stream: Stream) -> list[str]:
    """Return a note for each column that is not stored as its descriptor says."""
    notes = []
    for key, column in stream.columns.items():
        promised = stream.data_keys[key].get("dtype", "without a dtype")
        if promised != column.kind:
            notes.append(
                f"{stream.name}/{key}: declared {promised}, stored as {column.kind}, "
                "because of its values"
            )
    return notes


def as_row(stream: Stream, event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as a row of its stream's table; a missing value is as its column stores it.

    The columns are ``seq_num``, ``time``, the time stamps (``ts_`` and the data key) and the data
    keys.
    """
    data, times, keys = event["data"], event["timestamps"], stream.internal
    return {
        "seq_num": event["seq_num"],
        "time": _time(event["time"]),
        **{f"ts_{key}": _time(times.get(key)) for key in keys},
        **{key: convert(stream.columns[key], data.get(key)) for key in keys},
    }


def _time(stamp: Any) -> float:
    return float("nan") if stamp is None else float(stamp)


class SequenceSorter:
    """Sorts the events of a stream by seq_num; of events with the same seq_num the last is kept.

    After a resume the RunEngine may emit events again, with seq_nums that it has used before. Then
    the last event of a low seq_num can be behind that of a higher one in the journal.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._next = stream.first_seq
        self._held: dict[int, dict[str, Any]] = {}

    def __call__(self, line: int, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events that may be written now that `event`, on `line`, is there."""
        if not self._stream.is_last_line_of(event["seq_num"], line):
            return
        self._held[event["seq_num"]] = event
        while self._held:
            if self._next in self._held:
                yield self._held.pop(self._next)
            elif self._stream.has_event(self._next):
                return
            self._next += 1

"""Runs for tests: composed documents through the real journal, without an engine."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
from event_model import compose_run

from skywright.callbacks.journal import Journal, journal_path


class Recording:
    """A run whose documents go through a journal as they are composed."""

    def __init__(self, journals: Path, **metadata: Any) -> None:
        self.journal = Journal(journals)
        self.run = compose_run(time=metadata.pop("time", None), metadata=metadata)
        self.uid: str = self.run.start_doc["uid"]
        self.path = journal_path(journals, self.uid)
        self.journal("start", self.run.start_doc)
        self._streams: dict[str, Any] = {}

    def stream(self, name: str, **keys: Mapping[str, Any]) -> "Recording":
        """Declare a stream; a key is its data key without ``source``."""
        data_keys = {key: {"source": "test", "shape": [], **value} for key, value in keys.items()}
        bundle = self.run.compose_descriptor(
            name=name, data_keys=data_keys, object_keys={"device": list(keys)}
        )
        self._streams[name] = bundle
        self.journal("descriptor", bundle.descriptor_doc)
        return self

    def event(self, name: str = "primary", seq_num: int | None = None, **data: Any) -> None:
        """Record one event; nothing is checked, so that broken devices can be imitated."""
        bundle = self._streams[name]
        event = bundle.compose_event(
            data=data, timestamps=dict.fromkeys(data, 1e9), seq_num=seq_num, validate=False
        )
        self.journal("event", event)

    def events(self, rows: Iterable[Mapping[str, Any]], name: str = "primary") -> "Recording":
        for row in rows:
            self.event(name, **row)
        return self

    def stop(self) -> Path:
        """Close the run; return its journal."""
        self.journal("stop", self.run.compose_stop())
        return self.path


def scalar(dtype: str, **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, **more}


def array(shape: list[int], **more: Any) -> dict[str, Any]:
    return {"dtype": "array", "shape": shape, **more}


def record(store: Path, rows: int = 3, **metadata: Any) -> Recording:
    """Begin a run with events of one number, 1.0, 2.0 and so on."""
    recording = Recording(store / "journal", **metadata).stream("primary", x=scalar("number"))
    recording.events({"x": float(n)} for n in range(1, rows + 1))
    return recording


def rows_of(client: Any, uid: str) -> list[float]:
    """Return the numbers that the catalog has of a run of `record`."""
    table = client["raw"][uid].base["primary"].base["internal"].read()
    assert table["seq_num"].tolist() == list(range(1, len(table) + 1))
    return list(table["x"])


def append_again(table: Any, rows: int) -> None:
    """Append the first rows once more, as a retry after a lost reply does."""
    frame = table.read().iloc[:rows]
    table.append_partition(0, pyarrow.Table.from_pandas(frame, preserve_index=False))

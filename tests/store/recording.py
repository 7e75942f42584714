"""Runs for tests: composed documents through the real journal, without an engine."""

from pathlib import Path
from typing import Any

import pyarrow
from support.composed import ComposedRun

from skywright.callbacks.journal import Journal, journal_path


class Recording(ComposedRun):
    """A run whose documents go through a journal as they are composed."""

    def __init__(self, journals: Path, **metadata: Any) -> None:
        self.journal = Journal(journals)
        super().__init__(self.journal, time=metadata.pop("time", None), metadata=metadata)
        self.path = journal_path(journals, self.uid)

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

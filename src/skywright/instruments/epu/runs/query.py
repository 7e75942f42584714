"""Reading entities out of the catalog, from the columns of the runs of `track_epu`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.epu.runs.layouts import COLUMNS, IDENTITY, STREAMS, last_of_each
from skywright.store.stream_rows import Columns, StreamRows


def last_rows(run: Any, kind: str) -> Columns:
    """Return the present state of entities of a run: the last row of each uuid, by column.

    Parameters
    ----------
    run
        tiled client of the run.
    kind
        ``gridsquare``, ``foilhole``, ``micrograph`` or ``result``.

    Returns
    -------
    dict
        The columns by name; they are empty if the run has no entity of this kind.
    """
    stream = _Stream(run, kind)
    if not stream.names:
        return _empty_columns(kind)
    columns = stream.whole(stream.names)
    rows = last_of_each(columns["uuid"])
    return {name: column[rows] for name, column in columns.items()}


def find_micrographs(
    runs: Any,
    *,
    square: str | None = None,
    hole: str | None = None,
    defocus: tuple[float | None, float | None] = (None, None),
    time: tuple[datetime | None, datetime | None] = (None, None),
    limit: int | None = None,
    offset: int = 0,
    names: Sequence[str] | None = None,
) -> Columns:
    """Return micrographs of a run, or of all runs of a session, by column, a page at a time.

    Columns that decide are read whole; of the others, only the partitions of the table that have
    rows of the page, all columns in one request a partition.

    Parameters
    ----------
    runs
        tiled client of a run, or a list of those of one grid, the oldest first.
    square, hole
        Ids; None is any.
    defocus
        Smallest and largest defocus, m; None is open. A micrograph without defocus is in no range.
    time
        Earliest and latest time of acquisition; None is open. A time without offset is UTC.
    limit, offset
        Length of the page, and how many micrographs are before it; in the order of their last rows.
    names
        Columns to return; None: all that all the runs have.

    Returns
    -------
    dict
        The columns by name; the last row of each micrograph. Without a run there are no columns.
    """
    listed = list(runs) if isinstance(runs, Sequence) else [runs]
    if not listed:
        return {}
    all_streams = [_Stream(run, "micrograph") for run in listed if STREAMS["micrograph"] in run]
    streams = [stream for stream in all_streams if stream.names]
    if not streams:
        empty = _empty_columns("micrograph")
        return {name: empty[name] for name in names or empty}
    texts = {
        name: text.encode()
        for name, text in (("gridsquare_id", square), ("foilhole_id", hole))
        if text is not None
    }
    bounds = {
        "defocus": defocus,
        "acquisition_datetime": tuple(None if each is None else _seconds(each) for each in time),
    }
    bounds = {name: ends for name, ends in bounds.items() if ends != (None, None)}
    parts = [stream.whole(["uuid", *texts, *bounds]) for stream in streams]
    known = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = last_of_each(known["uuid"])
    for name, (low, high) in bounds.items():
        rows = rows[_inside(known[name][rows], low, high)]
    for name, value in texts.items():
        rows = rows[known[name][rows] == value]
    page = rows[offset : None if limit is None else offset + limit]
    common = [name for name in streams[0].names if all(name in each.names for each in streams)]
    wanted = list(names or common)
    others = [name for name in wanted if name not in known]
    blocks: list[Columns] = []
    first = 0
    for stream, part in zip(streams, parts, strict=True):
        mine = page[(page >= first) & (page < first + len(part["uuid"]))] - first
        first += len(part["uuid"])
        if len(mine) or not blocks:
            own = {name: part[name][mine] for name in wanted if name in part}
            blocks.append(own | stream.take(others, mine))
    return {name: np.concatenate([block[name] for block in blocks]) for name in wanted}


def _empty_columns(kind: str) -> Columns:
    columns = {each.name: np.empty(0, each.dtype) for each in COLUMNS[kind]}
    return {"row": np.empty(0, IDENTITY.dtype), **columns}


class _Stream:
    """The columns of a kind of entity in a run, by their names without the device's.

    There are none if the run has no row of this kind.
    """

    def __init__(self, run: Any, kind: str) -> None:
        self._rows = StreamRows(run[STREAMS[kind]])
        device = run.metadata["start"]["detectors"][0]
        self._prefix = f"{device}_{STREAMS[kind].removesuffix('s')}_"
        self.names = [
            key.removeprefix(self._prefix)
            for key in self._rows.keys
            if key.startswith(self._prefix)
        ]

    def whole(self, names: Sequence[str]) -> Columns:
        """Read columns from end to end."""
        return self._own(self._rows.whole([self._prefix + name for name in names]))

    def take(self, names: Sequence[str], rows: NDArray[np.int64]) -> Columns:
        """Read rows of rising numbers."""
        return self._own(self._rows.take([self._prefix + name for name in names], rows))

    def _own(self, columns: Columns) -> Columns:
        return {key.removeprefix(self._prefix): column for key, column in columns.items()}


def _inside(values: NDArray[Any], low: float | None, high: float | None) -> NDArray[np.bool_]:
    inside = np.ones(len(values), dtype=bool)
    if low is not None:
        inside &= values >= low
    if high is not None:
        inside &= values <= high
    return inside


def _seconds(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()

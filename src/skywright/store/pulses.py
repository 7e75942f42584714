"""Rows of stored runs by pulse id, of instruments whose rows are numbered by the machine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiled.client.container import Container

from skywright.errors import DataError

IDENTITY = "pulse_id"
STREAMS = ("primary", "pulses")
"""Where rows of pulses are: of an acquisition, and of a scan."""


class PulseRows:
    """The rows of one run, found by pulse id.

    Ids and columns are looked up once, so that further ranges cost one request a column. A run
    that is still written has further rows for a new `PulseRows`.

    Parameters
    ----------
    run
        tiled client of the raw run.
    key
        A column that the device must have beside ``pulse_id``, where a run has several.

    Raises
    ------
    DataError
        If no stream of the run has both.
    """

    def __init__(self, run: Container, key: str = "spectrum") -> None:
        self._stream, self._device = _find(run, key)
        self._columns: dict[str, Any] = {}
        self.ids: NDArray[np.int64] = np.asarray(self._column(IDENTITY).read(), np.int64)
        """(n,) of all rows, in the order of the file."""
        self._sorted = bool((np.diff(self.ids) >= 0).all())

    def between(
        self, first: int, stop: int, keys: Sequence[str] = ("spectrum",)
    ) -> dict[str, NDArray[Any]]:
        """Return the rows of pulses with first <= id < stop.

        Parameters
        ----------
        first, stop
            Pulse ids; missing ones are left out.
        keys
            Columns, without the device's name.

        Returns
        -------
        dict
            ``pulse_id``, (n,) int64 in rising order, and each of `keys`, (n, ...).

        Raises
        ------
        DataError
            If there is no such column.
        """
        if self._sorted:
            low, high = np.searchsorted(self.ids, (first, stop))
            rows = np.arange(low, max(low, high))
        else:  # an id may come late
            rows = np.flatnonzero((self.ids >= first) & (self.ids < stop))
        found = {IDENTITY: self.ids[rows]}
        order = np.argsort(found[IDENTITY], kind="stable")
        found[IDENTITY] = found[IDENTITY][order]
        for key in keys:
            column = self._column(key)
            if not len(rows):
                found[key] = np.empty((0, *column.shape[1:]), column.dtype)
                continue
            values = np.asarray(column[int(rows[0]) : int(rows[-1]) + 1])
            found[key] = values[rows - rows[0]][order]
        return found

    def _column(self, key: str) -> Any:
        if key not in self._columns:
            name = f"{self._device}_{key}"
            try:
                self._columns[key] = self._stream[name]
            except KeyError as error:
                raise DataError(f"{self._stream.uri}: no column {name}") from error
        return self._columns[key]


def pulses_between(
    run: Container, first: int, stop: int, keys: Sequence[str] = ("spectrum",)
) -> dict[str, NDArray[Any]]:
    """Return the rows of a run with first <= pulse id < stop; see `PulseRows.between`."""
    return PulseRows(run, keys[0] if keys else IDENTITY).between(first, stop, keys)


def _find(run: Container, key: str) -> tuple[Container, str]:
    """Return the stream, and the name of the device, whose rows have pulse ids and `key`."""
    for name in STREAMS:
        try:
            stream = run[name]
        except KeyError:
            continue
        # The descriptor's keys are at hand; to list the columns takes a request more.
        columns = set(stream.metadata.get("data_keys") or stream)
        devices = [each.removesuffix(f"_{IDENTITY}") for each in columns if each.endswith(IDENTITY)]
        for device in sorted(devices):
            if f"{device}_{key}" in columns:
                return stream, device
    raise DataError(f"run {run.item['id']}: no stream has rows with {IDENTITY} and {key}")

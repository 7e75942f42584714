"""Rows of stored runs by pulse id, of instruments whose rows are numbered by the machine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiled.client.container import Container

from skywright.errors import DataError

IDENTITY = "pulse_id"


class PulseRows:
    """The rows of one run, found by pulse id.

    Ids and columns are looked up once, so that further ranges cost one request a column. A run
    that is still written has further rows for a new `PulseRows`.

    Parameters
    ----------
    run
        tiled client of the raw run.
    key
        A column that the device must have beside the ids, where a run has several devices.
    identity
        The column with the ids, without the device's name.

    Raises
    ------
    DataError
        If no stream of the run has both.
    """

    def __init__(self, run: Container, key: str = "spectrum", identity: str = IDENTITY) -> None:
        self._stream, self._device = _find(run, key, identity)
        self._identity = identity
        self._columns: dict[str, Any] = {}
        self.ids: NDArray[np.int64] = np.asarray(self._column(identity).read(), np.int64)
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
            The ids under their name, (n,) int64 in rising order, and each of `keys`, (n, ...).

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
        ids = self.ids[rows]
        order = np.argsort(ids, kind="stable")
        found = {self._identity: ids[order]}
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


def _find(run: Container, key: str, identity: str) -> tuple[Container, str]:
    """Return the stream, and the name of the device, whose rows have ids and `key`."""
    for name in sorted(run, key=lambda name: name != "primary"):
        stream = run[name]
        # The descriptor's keys are at hand; to list the columns takes a request more.
        columns = set(stream.metadata.get("data_keys") or stream)
        devices = [each.removesuffix(f"_{identity}") for each in columns if each.endswith(identity)]
        for device in sorted(devices):
            if f"{device}_{key}" in columns:
                return stream, device
    raise DataError(f"run {run.item['id']}: no stream has rows with {identity} and {key}")

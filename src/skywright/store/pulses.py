"""Rows of stored runs by pulse id, of instruments whose rows are numbered by the machine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiled.client.container import Container

from skywright.errors import DataError
from skywright.store.stream_rows import StreamRows

IDENTITY = "pulse_id"


class PulseRows:
    """The rows of one run, found by pulse id.

    Ids and columns are looked up once. A further range costs one request for each array column,
    and one for each partition of the table with the scalar columns. Rows that a run in progress
    gets later are found by a new `PulseRows` only.

    Parameters
    ----------
    run
        tiled client of the raw run.
    key
        A column that the device must have beside the ids; it selects one of several devices.
    identity
        The column with the ids, without the device's name.

    Raises
    ------
    DataError
        If no stream of the run has both.
    """

    def __init__(self, run: Container, key: str = "spectrum", identity: str = IDENTITY) -> None:
        stream, self._device = _find(run, key, identity)
        self._identity = identity
        self._rows = StreamRows(stream)
        name = f"{self._device}_{identity}"
        self.ids: NDArray[np.int64] = np.asarray(self._rows.whole([name])[name], np.int64)
        """(n,) of all rows, in the order of the file."""

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
        rows = np.flatnonzero((self.ids >= first) & (self.ids < stop))
        order = np.argsort(self.ids[rows], kind="stable")  # an id may come late
        names = {key: f"{self._device}_{key}" for key in keys}
        columns = self._rows.take(list(names.values()), rows)
        found = {self._identity: self.ids[rows][order]}
        return found | {key: columns[name][order] for key, name in names.items()}


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

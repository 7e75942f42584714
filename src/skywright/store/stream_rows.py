"""Rows of a stream's columns, read from the catalog: one request reads all columns of a table."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError

Columns = dict[str, NDArray[Any]]


class StreamRows:
    """The columns of one stream, as its nodes were when they were looked up.

    A table is read partition by partition, all wanted columns together; each column that is in no
    table is an array of its own.

    Parameters
    ----------
    stream
        tiled client of the stream.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._declared = {
            key: data_key.get("dtype_numpy")
            for key, data_key in stream.metadata.get("data_keys", {}).items()
        }
        self.parts: dict[str, Any] = dict(stream.base.items())
        """Clients of the tables and arrays of the stream, by name."""
        self.part_of: dict[str, str] = {}
        """The table, or the array, in which each column is."""
        self._tables: dict[str, int] = {}
        for part, client in self.parts.items():
            if client.structure_family == "table":
                self._tables[part] = client.structure().npartitions
                self.part_of |= dict.fromkeys(client.structure().columns, part)
            else:
                self.part_of[part] = part
        self.keys = list(self.part_of)
        self._lengths: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        """Held while rows of a table are read: its partitions may grow meanwhile."""

    def whole(self, keys: Sequence[str]) -> Columns:
        """Return whole columns, all cut to the length of the shortest one; scalars stay scalars.

        Raises
        ------
        DataError
            If there is no such column.
        """
        found: Columns = {}
        for part, own in self._by_part(keys).items():
            found |= self._whole_part(part, own)
        rows = min((len(values) for values in found.values() if values.ndim), default=0)
        return {key: found[key][:rows] if found[key].ndim else found[key] for key in keys}

    def take(self, keys: Sequence[str], rows: NDArray[np.int64]) -> Columns:
        """Return rows of columns; of a table, only the partitions that have such rows are read.

        Parameters
        ----------
        keys
            The columns.
        rows
            Numbers of rows, rising.

        Raises
        ------
        DataError
            If there is no such column or row.
        """
        found: Columns = {}
        for part, own in self._by_part(keys).items():
            taken = self._take_part(part, own, rows)
            if any(len(values) != len(rows) for values in taken.values()):
                raise DataError(f"{self._stream.uri}: {part} has no row {int(rows[-1])}")
            found |= taken
        return {key: found[key] for key in keys}

    def _by_part(self, keys: Sequence[str]) -> dict[str, list[str]]:
        parts: dict[str, list[str]] = {}
        for key in keys:
            if key not in self.part_of:
                raise DataError(f"{self._stream.uri}: no column {key}")
            parts.setdefault(self.part_of[key], []).append(key)
        return parts

    def _whole_part(self, part: str, keys: Sequence[str]) -> Columns:
        if part not in self._tables:
            return {part: np.asarray(self.parts[part].read())}
        blocks = [self._partition(part, number, keys) for number in range(self._tables[part])]
        self._lengths[part] = [len(block[keys[0]]) for block in blocks]
        return {key: np.concatenate([block[key] for block in blocks]) for key in keys}

    def _take_part(self, part: str, keys: Sequence[str], rows: NDArray[np.int64]) -> Columns:
        if part not in self._tables:
            client = self.parts[part]
            if not len(rows):
                return {part: np.empty((0, *client.shape[1:]), client.dtype)}
            if rows[-1] >= client.shape[0]:
                client.refresh()
            low = int(rows[0])
            values = np.asarray(client[low : int(rows[-1]) + 1])
            return {part: values[rows[rows < low + len(values)] - low]}
        with self._lock:
            return self._take_of_table(part, keys, rows)

    def _take_of_table(self, part: str, keys: Sequence[str], rows: NDArray[np.int64]) -> Columns:
        if part not in self._lengths:
            self._whole_part(part, keys[:1])
        ends = np.cumsum(self._lengths[part])
        numbers = np.searchsorted(ends, rows, side="right")
        if len(ends) in numbers:  # a row that was not there
            return self._take_anew(part, keys, rows)
        blocks = []
        for number in np.unique(numbers) if len(rows) else [0]:
            block = self._partition(part, int(number), keys)
            own = rows[numbers == number] - (ends[number] - self._lengths[part][number])
            if len(own) and own[-1] >= len(block[keys[0]]):
                # The last partition of a growing table was open, and by now others follow it.
                return self._take_anew(part, keys, rows)
            blocks.append({key: values[own] for key, values in block.items()})
        return {key: np.concatenate([block[key] for block in blocks]) for key in keys}

    def _take_anew(self, part: str, keys: Sequence[str], rows: NDArray[np.int64]) -> Columns:
        self._tables[part] = self.parts[part].refresh().structure().npartitions
        whole = self._whole_part(part, keys)
        return {key: values[rows[rows < len(values)]] for key, values in whole.items()}

    def _partition(self, part: str, number: int, keys: Sequence[str]) -> Columns:
        # tiled's client refuses a partition whose columns come in another order: those of events do
        client, names = self.parts[part], list(keys)
        is_whole = self._tables[part] == 1
        frame = client.read(names) if is_whole else client.read_partition(number, names)
        return {key: column_values(frame[key], self._declared.get(key)) for key in keys}


def column_values(column: Any, declared: Any) -> Any:
    """Return a table's column as an array.

    Text is numpy text, or fixed-length bytes if the descriptor declares them.
    """
    if column.dtype == "string" or column.dtype == object:
        text = column.values.astype("U")
        is_bytes = isinstance(declared, str) and np.dtype(declared).kind == "S"
        return np.char.encode(text, "utf-8").astype(declared) if is_bytes else text
    return column.values

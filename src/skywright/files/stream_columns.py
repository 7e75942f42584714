"""Columns of files as the documents of a run describe them."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from skywright.files.columns import Column
from skywright.files.readers import HDF5

_KINDS = {"f": "number", "i": "integer", "u": "integer", "b": "boolean"}


def value_key(source: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return a data key; text in events (``<U``) has no fixed length, so no ``dtype_numpy``."""
    kind = np.dtype(dtype).kind
    return {
        "source": source,
        "dtype": "array" if shape else _KINDS.get(kind, "string"),
        "shape": list(shape),
        **({} if kind == "U" else {"dtype_numpy": np.dtype(dtype).str}),
    }


@dataclass(frozen=True)
class StreamColumn:
    """A column of the file, as described in documents.

    Parameters
    ----------
    key
        Last part of the data key.
    dataset
        Path in the file.
    dtype
        numpy's `dtype.str`.
    shape
        Shape of one row.
    rows_per_chunk
        Rows per chunk of the file.
    units
        Empty: none.
    mimetype
        Mimetype of the file, for `skywright.files.readers`.
    """

    key: str
    dataset: str
    dtype: str
    shape: tuple[int, ...] = ()
    rows_per_chunk: int = 1024
    units: str = ""
    mimetype: str = HDF5

    @classmethod
    def of(cls, column: Column, prefix: str = "", units: str | None = None) -> "StreamColumn":
        """Return a column of a file; its key is `prefix` and then its name.

        `units`: the units in documents; None: those that the file has.
        """
        return cls(
            prefix + column.name,
            column.path,
            np.dtype(column.dtype).str,
            column.shape,
            column.rows_per_chunk,
            str(column.attrs.get("units", "")) if units is None else units,
        )

    def describe(self, source: str) -> dict[str, Any]:
        """Return the data key of a descriptor; `source` is where the rows come from."""
        units = {"units": self.units} if self.units else {}
        return value_key(source, self.dtype, self.shape) | {"external": "STREAM:"} | units

    def resource(self, file: str, data_key: str) -> dict[str, Any]:
        """Return the arguments of event_model's `compose_stream_resource`, for a file."""
        return {
            "mimetype": self.mimetype,
            "uri": f"file://localhost{quote(file)}",
            "data_key": data_key,
            "parameters": {
                "dataset": self.dataset,
                "chunk_shape": [self.rows_per_chunk, *self.shape],
                "swmr": True,
            },
        }

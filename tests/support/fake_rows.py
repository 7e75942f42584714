"""Rows of a file, reported by a stream that is no hardware, for tests of plans."""

from collections.abc import Iterator
from typing import Any

from bluesky.protocols import StreamAsset
from event_model import StreamRange, compose_stream_resource
from ophyd.sim import NullStatus


class FakeRows:
    """A stream of one data key, by protocol only.

    Parameters
    ----------
    key
        The data key.
    shape, dtype
        Shape and numpy type of a row.
    name
        Name of the stream; that of the data key if not given.

    Attributes
    ----------
    rows, told
        Number of rows in the file, and of those in stream datums.
    """

    parent = None

    def __init__(
        self, key: str, shape: tuple[int, ...] = (), dtype: str = "<f8", name: str = ""
    ) -> None:
        self.key, self.shape, self.dtype = key, shape, dtype
        self.name = name or key
        self.rows = self.told = 0
        self.flying = False
        self.bundle: Any = None

    def kickoff(self) -> NullStatus:
        self.flying = True
        return NullStatus()

    def complete(self) -> NullStatus:
        self.flying = False
        return NullStatus()

    def describe_collect(self) -> dict[str, Any]:
        kind = "array" if self.shape else "number"
        key = {"source": "sim", "dtype": kind, "shape": list(self.shape)}
        return {self.key: {**key, "dtype_numpy": self.dtype, "external": "STREAM:"}}

    def get_index(self) -> int:
        return self.rows

    def arrive(self) -> None:
        """Add the rows that come between two reports, while it flies."""
        self.rows += 3

    def collect_asset_docs(self, index: int | None = None) -> Iterator[StreamAsset]:
        if self.flying:
            self.arrive()
        if self.rows == self.told:
            return
        if self.bundle is None:
            self.bundle = compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=f"file://localhost/{self.key}.h5",
                data_key=self.key,
                parameters={"dataset": "/x", "chunk_shape": [1, *self.shape]},
            )
            yield "stream_resource", self.bundle.stream_resource_doc
        rows = StreamRange(start=self.told, stop=self.rows)
        yield "stream_datum", self.bundle.compose_stream_datum(rows)
        self.told = self.rows

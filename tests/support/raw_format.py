"""A small raw format as another program writes it: a header and counts, record after record.

A record: ``RAW1``, uint32 number, uint16 height, uint16 width, then height x width uint16, all
little-endian. Files roll over.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from event_model import compose_stream_resource
from numpy.typing import NDArray

from skywright.acquire.index_layout import Records
from skywright.errors import DataError
from skywright.files.columns import Column
from skywright.files.index import OFFSET, SIZE, IndexReader
from skywright.instruments import Instrument

MIMETYPE = "application/x-raw1"
HEADER = struct.Struct("<4sIHH")
SHAPE = (4, 6)
RECORD_BYTES = HEADER.size + 2 * SHAPE[0] * SHAPE[1]
TIME = Column("/entry/index/time", "<f8")
INSTRUMENT = Instrument("raw", "raw", readers={MIMETYPE: "support.raw_format:RawReader"})


def image(number: int) -> NDArray[np.uint16]:
    """The image of a record, which its number determines."""
    return np.random.default_rng(number).integers(0, 4096, SHAPE, dtype=np.uint16)


def record(number: int) -> bytes:
    return HEADER.pack(b"RAW1", number, *SHAPE) + image(number).astype("<u2").tobytes()


def append(path: Path, numbers: range) -> None:
    with path.open("ab") as file:
        file.write(b"".join(map(record, numbers)))


def index(file: Path, first: int, count: int, at: int = 0) -> Records:
    """Records `first` ... of a file, from the record `at` of it on."""
    numbers = np.arange(first, first + count)
    offsets = (at + np.arange(count)) * RECORD_BYTES
    sizes = np.full(count, RECORD_BYTES)
    columns = {OFFSET: offsets, SIZE: sizes, TIME.path: 1e9 + numbers}
    return Records(numbers, columns, file)


class RawReader(IndexReader):
    """Reads ``image`` and ``number``."""

    def decode(self, records: Sequence[memoryview], column: str) -> NDArray[Any]:
        headers = [HEADER.unpack_from(each) for each in records]
        for magic, number, height, width in headers:
            if magic != b"RAW1":
                raise DataError(f"{self.path}: record {number} begins with {magic!r}, not RAW1")
            del height, width
        if column == "number":
            return np.array([header[1] for header in headers], np.int64)
        if column != "image":
            raise DataError(f"{self.path}: no column {column!r}; expected image or number")
        return np.stack(
            [np.frombuffer(each, "<u2", offset=HEADER.size).reshape(SHAPE) for each in records]
        )


DATA_KEYS = {
    "raw_image": {"dtype": "array", "shape": list(SHAPE), "dtype_numpy": "<u2"},
    "raw_frame_number": {"dtype": "integer", "shape": [], "dtype_numpy": "<i8"},
    "raw_frame_time": {"dtype": "number", "shape": [], "dtype_numpy": "<f8"},
}
DATASETS = {
    "raw_image": "image",
    "raw_frame_number": "/entry/index/identity",
    "raw_frame_time": TIME.path,
}


def data_keys() -> dict[str, Any]:
    return {key: {**value, "external": "STREAM:"} for key, value in DATA_KEYS.items()}


def resources(index_file: Path, mimetype: str = MIMETYPE) -> dict[str, Any]:
    """Bundles of stream resources by data key."""
    return {
        key: compose_stream_resource(
            mimetype=mimetype,
            uri=f"file://localhost{index_file}",
            data_key=key,
            parameters={"dataset": dataset, "chunk_shape": [1, *DATA_KEYS[key]["shape"]]},
        )
        for key, dataset in DATASETS.items()
    }

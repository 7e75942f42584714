"""A run as a Zarr 3 store: a group per stream, an array per column, documents as attributes."""

import warnings
from pathlib import Path
from typing import Any

import zarr
from zarr.errors import UnstableSpecificationWarning

from skywright.store.export.contents import EXPORTER, Column, RunContents, Stream

SECONDS: dict[str, Any] = {"units": "s"}


def write_zarr(contents: RunContents, directory: Path) -> list[str]:
    """Write `directory` as a Zarr 3 store.

    Group ``<stream>/`` holds an array per data key (first dimension named ``event``, or ``row`` if
    it is not the events') and ``<stream>/timestamps/`` the times of the values, unix s. The
    attribute ``nodes`` of the root names all groups and arrays.

    Returns
    -------
    list of str
        What was left out: nothing.
    """
    attributes: dict[str, Any] = {
        "exporter": EXPORTER,
        "status": contents.status,
        "start": contents.start,
        "stop": contents.stop,
    }
    root = zarr.open_group(directory, mode="w", zarr_format=3, attributes=attributes)
    with warnings.catch_warnings():
        # Text of fixed length (|S8) keeps its dtype, though Zarr 3 has not agreed on its name yet.
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        for stream in contents.streams:
            _write_stream(root, stream)
    root.attrs["nodes"] = sorted(name for name, _ in root.members(max_depth=None))
    return []


def _write_stream(root: zarr.Group, stream: Stream) -> None:
    group = root.create_group(stream.name, attributes={"descriptor": dict(stream.descriptor)})
    events = stream.column("seq_num")
    for column in stream.columns:
        is_event = events is not None and column.shape[0] == events.shape[0]
        _write_column(group, column, "event" if is_event else "row")
    stamps = group.create_group(stream.free_name("timestamps"))
    for key, values in stream.timestamps.items():
        stamps.create_array(
            key.replace("/", "_"), data=values, dimension_names=["event"], attributes=SECONDS
        )


def _write_column(group: zarr.Group, column: Column, first_dimension: str) -> None:
    """Copy a column slice by slice."""
    dimensions = [first_dimension, *(f"{column.name}_{i}" for i in range(1, len(column.shape)))]
    dtype: Any = "string" if column.dtype.kind == "U" else column.dtype
    array = group.create_array(
        column.name.replace("/", "_"),
        shape=column.shape,
        dtype=dtype,
        chunks=column.chunk_shape(),
        dimension_names=dimensions,
        # At once: each later change of an attribute writes the document of the array again
        attributes=dict(column.data_key) or (SECONDS if column.name == "time" else {}),
    )
    for rows, values in column.slices():
        array[rows] = values

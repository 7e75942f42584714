"""Rows of files as tiled shall show them: aligned with the events, readable at any time."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
from tiled.utils import path_from_uri

from skywright.errors import DataError
from skywright.store.survey import Frames, Segment, Stream

HDF5 = "application/x-hdf5"
KEPT = "/kept"

Documents = Iterator[tuple[str, dict[str, Any]]]


class ShownFrames:
    """The rows of one data key that tiled has been told of, and what to tell it next.

    Parameters
    ----------
    stream, key
        Whose rows.
    kept
        Directory for the virtual files that leave superseded rows out.
    """

    def __init__(self, stream: Stream, key: str, kept: Path) -> None:
        self._stream = stream
        self._key = key
        self._kept = kept
        self._told: set[str] = set()
        self._shown = 0  # rows
        self._end = float("-inf")  # seq_num after the last row shown

    def news(self, frames: Frames, resources: Mapping[str, dict[str, Any]]) -> Documents:
        """Yield stream resources and stream datums for the rows not shown yet.

        Parameters
        ----------
        frames
            All rows known of this data key.
        resources
            The stream resources of the run by uid.

        Raises
        ------
        DataError
            When rows must be left out of a file that cannot be read.
        """
        end = self._stream.frames_end()
        new = frames.between(self._end, end)
        if not new:
            return
        resource = resources[new[0].resource]
        if frames.superseded and resource["mimetype"] == HDF5:
            yield from self._through_virtual_file(frames.between(float("-inf"), end), resources)
        else:
            for segment in new:
                yield from self._as_it_is(segment, resources[segment.resource])
        self._end = new[-1].seq_num + new[-1].rows

    def _as_it_is(self, segment: Segment, resource: dict[str, Any]) -> Documents:
        if segment.resource not in self._told:
            self._told.add(segment.resource)
            yield "stream_resource", readable_any_time(resource)
        yield "stream_datum", self._datum(segment)
        self._shown += segment.rows

    def _through_virtual_file(
        self, segments: Sequence[Segment], resources: Mapping[str, dict[str, Any]]
    ) -> Documents:
        """Show the rows that hold of files that have more: HDF5 has a view for that."""
        first = resources[segments[0].resource]
        uid = f"{first['uid']}-kept"
        name = f"{first['uid']}-{self._key}".replace("/", "_")
        path = self._kept / f"{name}.h5"
        write_virtual_file(path, [(resources[s.resource], s) for s in segments])
        if uid not in self._told:
            self._told.add(uid)
            parameters = dict(first["parameters"]) | {"dataset": KEPT}
            changes = {"uid": uid, "uri": f"file://localhost{path}", "parameters": parameters}
            yield "stream_resource", readable_any_time(first | changes)
        rows = sum(segment.rows for segment in segments)
        seq_num = segments[0].seq_num + self._shown
        yield "stream_datum", self._datum(Segment(uid, self._shown, seq_num, rows - self._shown))
        self._shown = rows

    def _datum(self, segment: Segment) -> dict[str, Any]:
        seq_num, index = segment.seq_num, segment.index
        return {
            "uid": f"{segment.resource}/{index}",
            "descriptor": self._stream.descriptor,
            "stream_resource": segment.resource,
            "indices": {"start": index, "stop": index + segment.rows},
            "seq_nums": {"start": seq_num, "stop": seq_num + segment.rows},
        }


def readable_any_time(resource: dict[str, Any]) -> dict[str, Any]:
    """Let readers open a file that is still written, and never lock its writer out."""
    if resource["mimetype"] != HDF5:
        return resource
    defaults = {"swmr": True, "locking": False}
    return resource | {"parameters": defaults | resource["parameters"]}


def open_hdf5(resource: Mapping[str, Any]) -> h5py.File:
    """Open the file of a stream resource for reading, whether it is written now or not.

    Raises
    ------
    DataError
        When there is no such file here, or it is not HDF5.
    """
    path = path_from_uri(resource["uri"])
    try:
        return h5py.File(path, "r", libver="latest", swmr=True, locking=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as HDF5: {error}") from error


def write_virtual_file(path: Path, parts: Sequence[tuple[dict[str, Any], Segment]]) -> None:
    """Write an HDF5 file with one virtual dataset, `KEPT`, of the rows of `parts`, in order.

    Parameters
    ----------
    path
        The file; readers see the old one or the new one, nothing between.
    parts
        Stream resources with the rows to take of each.
    """
    rows = sum(segment.rows for _, segment in parts)
    with open_hdf5(parts[0][0]) as file:
        dataset = file[parts[0][0]["parameters"]["dataset"]]
        dtype, shape = dataset.dtype, dataset.shape[1:]
    layout = h5py.VirtualLayout((rows, *shape), dtype)
    at = 0
    for resource, segment in parts:
        source = h5py.VirtualSource(
            str(path_from_uri(resource["uri"])),
            resource["parameters"]["dataset"],
            (segment.index + segment.rows, *shape),
            dtype,
        )
        layout[at : at + segment.rows] = source[segment.index : segment.index + segment.rows]
        at += segment.rows
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    with h5py.File(new, "w", libver="latest") as file:
        file.create_virtual_dataset(KEPT, layout)
    new.replace(path)

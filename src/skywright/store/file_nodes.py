"""The nodes of a stream's files in tiled: aligned with the events, readable at any time."""

import io
import itertools
import logging
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
from bluesky_tiled_plugins.writing.consolidators import (
    CONSOLIDATOR_REGISTRY,
    consolidator_factory,
)
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource
from tiled.utils import path_from_uri

from skywright.errors import DataError
from skywright.files.hdf5 import open_hdf5
from skywright.files.readers import HDF5, first_row, local_path, readers
from skywright.files.replacing import replacing
from skywright.section import NOT_IN_ADDRESSES
from skywright.store.external import check_chunks, external_source, number_files
from skywright.store.journal_contents import (
    JournalContents,
    ResourceRows,
    Stream,
    datum_fields,
)
from skywright.store.reader_adapter import reader_source
from skywright.store.table_adapter import MIMETYPE, fits_table, table_structure

VIRTUAL_DATASET = "/kept"
"""Path of the dataset in a virtual file (`write_virtual_file`)."""
COLUMNS = "columns"
"""Name of the node with the scalar columns of a file, unless a data key has this name."""

PARTITION_BYTES = 16 << 20
"""Size of a partition of a table, bytes; a client reads one partition at a time."""
TABLE_PARAMETERS = {"dataset", "chunk_shape", "swmr", "locking"}
"""Parameters of a stream resource that a table of columns supports. A file with another parameter
becomes an array."""
NAME_BYTES = 200
"""Longest name of a virtual file without its suffix, bytes; the end of a longer one becomes a
checksum."""

Place = tuple[dict[str, Any], ResourceRows]
"""A stream resource (`with_plain_uri`), with rows of its file (`rows_in_files`)."""

log = logging.getLogger(__name__)


def rows_in_files(stream: Stream, key: str) -> list[ResourceRows]:
    """Return the rows of a data key that the catalog shows, with their numbers in their files.

    Row 0 is the first row of the file; of a resource with a ``slice``, the first row of that.
    """
    rows = []
    for part in stream.catalog_rows(key):
        first = stream.external_rows[key].first_index(part.resource)
        rows.append(replace(part, start=part.start - first, stop=part.stop - first))
    return rows


def note_longer_files(contents: JournalContents) -> None:
    """Find arrays over several files that have more rows than the stream datums name.

    tiled shows whole files, one after the other. So if a file that is not the last one has more
    rows, they would take the place of the rows of the next file. `ExternalRows.skips_rows` of such
    an array becomes True. Call it when the run has ended; files that cannot be read are ignored.
    """
    resources = {(str(r.get("uri")), r["data_key"]): r for r in contents.resources.values()}
    for stream in contents.streams.values():
        for key, rows in stream.external_rows.items():
            if not rows.skips_rows and any(
                _length(resources[uri, key]) > named for uri, named in [*rows.next_row.items()][:-1]
            ):
                rows.skips_rows = True
                stream.revision += 1


def _length(resource: Mapping[str, Any]) -> int:
    """Return the length of a dataset of an HDF5 file; 0 if it cannot be read."""
    try:
        with open_hdf5(local_path(resource["uri"])) as file:
            return len(file[resource["parameters"]["dataset"]])
    except Exception as error:  # documents of other programs may lack anything, files be damaged
        log.debug("%s: its length is not known: %s", resource.get("uri"), error)
        return 0


def data_sources(
    stream: Stream,
    contents: JournalContents,
    data_keys: Mapping[str, Any],
    virtual_directory: Path,
    *,
    tables: bool,
) -> Iterator[tuple[str, DataSource | DataError]]:
    """Yield the data sources of the nodes that show the files of a stream, by name.

    All scalar columns of the same rows of the same HDF5 files are one table, each other data key
    is one array. While the run goes on, columns are grouped by first file and first row only, and
    the end of a table is not stored: it shows all rows that its last file has by then, unless rows
    of another stream follow in that file.

    Parameters
    ----------
    stream
        The stream, with the rows of its files.
    contents
        Contents of the journal that has the stream.
    data_keys
        Data keys of the stream, as they are stored.
    virtual_directory
        Directory of the virtual files. A virtual file leaves out rows that were superseded, or that
        belong to other streams.
    tables
        Whether the server has the adapter for tables of columns.

    Yields
    ------
    name, source
        A `DataError` instead of the source is the reason why a data key cannot be stored.
    """
    groups: dict[Any, dict[str, list[Place]]] = {}
    resources = {uid: with_plain_uri(each) for uid, each in contents.resources.items()}
    ended = contents.stop is not None
    for key in stream.external_rows:
        places = [(resources[rows.resource], rows) for rows in rows_in_files(stream, key)]
        if not places:
            continue
        uris = [resource.get("uri", "") for resource, _ in places]
        if odd := next((uri for uri in uris if NOT_IN_ADDRESSES & {*uri}), None):
            yield key, DataError(f"{odd!r}: tiled reads no path with # or ?, a tab or a line break")
            continue
        try:
            if tables and _is_column(key, data_keys[key], [resource for resource, _ in places]):
                where = _ranges(places)
                # The documents of a file come column by column: while the run goes on one column
                # may be ahead of another.
                groups.setdefault(tuple(where) if ended else where[0][:2], {})[key] = places
            else:
                yield key, _array(stream, key, places, data_keys, virtual_directory)
        except OSError:  # a virtual file cannot be written: the ingester tries again
            raise
        except DataError as error:
            yield key, error
        except Exception as error:  # a consolidator of odd documents may raise anything
            log.debug("%s/%s: no data source", stream.name, key, exc_info=error)
            yield key, DataError(f"{type(error).__name__}: {error}")
    names = (f"{COLUMNS}_{number}" for number in itertools.count(2))
    free_names = (name for name in itertools.chain([COLUMNS], names) if name not in data_keys)
    for places_of in groups.values():
        last = next(iter(places_of.values()))[-1]
        is_open = not ended and _has_last_rows(stream, contents, last)
        yield next(free_names), _table(places_of, data_keys, is_open=is_open)


def _has_last_rows(stream: Stream, contents: JournalContents, last: Place) -> bool:
    """Return whether no other stream has rows of the file behind the last rows of a stream."""
    resource, rows = last
    same_file = {
        uid: str(each.get("uri"))
        for uid, each in contents.resources.items()
        if with_plain_uri(each).get("uri") == resource["uri"]
    }
    return not any(
        each.resource in same_file and each.start >= rows.stop
        for other in contents.streams.values()
        if other is not stream
        for key, known in other.external_rows.items()
        if not known.next_row.keys().isdisjoint(same_file.values())
        for each in rows_in_files(other, key)
    )


def _ranges(places: Sequence[Place]) -> list[tuple[str, int, int]]:
    """Return the file, first row and end of rows."""
    return [(resource["uri"], rows.start, rows.stop) for resource, rows in places]


def _is_column(key: str, data_key: Mapping[str, Any], resources: Sequence[dict[str, Any]]) -> bool:
    """Return whether a data key is a scalar column of HDF5 files that a table can show."""
    plain = _have_one_dataset(resources) and all(
        resource["mimetype"] == HDF5
        and {"dataset"} <= resource["parameters"].keys() <= TABLE_PARAMETERS
        for resource in resources
    )
    try:
        dtype = _dtype(data_key)
    except TypeError:
        return False
    return plain and tuple(data_key["shape"]) in ((), (1,)) and fits_table(key, dtype)


def _have_one_dataset(resources: Iterable[Mapping[str, Any]]) -> bool:
    datasets = [resource["parameters"].get("dataset") for resource in resources]
    return all(dataset == datasets[0] for dataset in datasets)


def _dtype(data_key: Mapping[str, Any]) -> np.dtype[Any]:
    return np.dtype(data_key.get("dtype_numpy") or "<f8")


def _table(
    places_of: Mapping[str, Sequence[Place]], data_keys: Mapping[str, Any], *, is_open: bool
) -> DataSource:
    """Return the data source of the table of some data keys, all of the same rows."""
    places = next(iter(places_of.values()))
    dtypes = {key: _dtype(data_keys[key]) for key in places_of}
    size = max(PARTITION_BYTES // sum(dtype.itemsize for dtype in dtypes.values()), 1)
    uris, segments = number_files(_ranges(places))
    count = sum(rows.count for _, rows in places)
    if is_open:
        segments[-1][2] = None
    columns = {key: own[0][0]["parameters"]["dataset"] for key, own in places_of.items()}
    parameters = {"columns": columns, "segments": segments, "partition_rows": size}
    structure = table_structure(dtypes, -(-count // size))
    return external_source(StructureFamily.table, structure, MIMETYPE, parameters, uris)


def _array(
    stream: Stream,
    key: str,
    places: Sequence[Place],
    data_keys: Mapping[str, Any],
    virtual_directory: Path,
) -> DataSource:
    segments = stream.catalog_rows(key)
    used = [resource for resource, _ in places]
    first = used[0]
    if first["mimetype"] != HDF5 and first["mimetype"] in readers():
        ranges = []
        for resource, rows in places:
            first_of_slice = first_row(resource["parameters"])
            ranges.append((first_of_slice + rows.start, first_of_slice + rows.stop))
        return reader_source(used, ranges, data_keys[key])
    if first["mimetype"] not in CONSOLIDATOR_REGISTRY:
        raise DataError(f"no reader for {first['mimetype']}")
    # The adapter of tiled reads whole datasets (or slices) of one path, file by file
    has_other_rows = stream.skips_rows(key) or not _have_one_dataset(used)
    if has_other_rows and first["mimetype"] == HDF5:
        name = f"{stream.name}-{first['uid']}-{key}".replace("/", "_")
        if len(name.encode()) > NAME_BYTES:
            start = name.encode()[: NAME_BYTES - 9].decode(errors="ignore")
            name = f"{start}-{zlib.crc32(name.encode()):08x}"
        path = virtual_directory / f"{name}.h5"
        write_virtual_file(path, places)
        parameters = dict(first["parameters"]) | {"dataset": VIRTUAL_DATASET, "slice": None}
        first = first | {"uri": f"file://localhost{path}", "parameters": parameters}
        count = sum(segment.count for segment in segments)
        segments = [ResourceRows(first["uid"], 0, count)]
    consolidator = consolidator_factory(with_swmr(first), {"data_keys": dict(data_keys)})
    rows_per_chunk = next(iter(first["parameters"].get("chunk_shape") or ()), math.inf)
    check_chunks(math.ceil(sum(each.count for each in segments) / rows_per_chunk))
    seen = {first["uid"]}
    for resource, segment in zip(used, segments, strict=False):  # a virtual file is one segment
        if segment.resource not in seen:
            seen.add(segment.resource)
            consolidator.update_from_stream_resource(with_swmr(resource))
        datum = datum_fields(segment.resource, segment.start, segment.sequence, segment.count)
        # With seq_nums the consolidator would keep an entry for each row
        no_seq_nums = {"start": segment.sequence, "stop": segment.sequence}
        consolidator.consume_stream_datum(datum | {"seq_nums": no_seq_nums})
    source: DataSource = consolidator.get_data_source()
    # Two resources of one file are one asset.
    return replace(source, assets=list({each.data_uri: each for each in source.assets}.values()))


def with_swmr(resource: dict[str, Any]) -> dict[str, Any]:
    """Return a stream resource whose parameters let readers open a file while it is written.

    Readers take no lock, so they never stop its writer.
    """
    if resource["mimetype"] != HDF5:
        return resource
    defaults = {"swmr": True, "locking": False}
    return resource | {"parameters": defaults | resource["parameters"]}


def with_plain_uri(resource: dict[str, Any]) -> dict[str, Any]:
    """Return a stream resource whose URI has the path as it is: tiled does not decode URIs."""
    uri = resource.get("uri", "")
    return resource | {"uri": unquote(uri)} if uri.startswith("file:") else resource


def write_virtual_file(path: Path, parts: Sequence[Place]) -> None:
    """Write an HDF5 file whose one dataset, `VIRTUAL_DATASET`, has the rows of `parts`, in order.

    Parameters
    ----------
    path
        Path of the file; readers see the old one or the new one, nothing between.
    parts
        The rows to use.

    Raises
    ------
    DataError
        If the first file is not here, or cannot be read as HDF5, or a slice is not one of rows.
    OSError
        If the file cannot be written; nothing is left of it.
    """
    count = sum(rows.count for _, rows in parts)
    path_of_first = path_from_uri(parts[0][0]["uri"])
    try:
        with open_hdf5(path_of_first) as file:
            dataset = file[parts[0][0]["parameters"]["dataset"]]
            dtype, shape = dataset.dtype, dataset.shape[1:]
    except OSError as error:
        raise DataError(f"{path_of_first}: cannot be read as HDF5: {error}") from error
    layout = h5py.VirtualLayout((count, *shape), dtype)
    at = 0
    for resource, rows in parts:
        begin = first_row(resource["parameters"])
        source = h5py.VirtualSource(  # names are templates, in which %% stands for %
            str(path_from_uri(resource["uri"])).replace("%", "%%"),
            resource["parameters"]["dataset"].replace("%", "%%"),
            (begin + rows.stop, *shape),
            dtype,
        )
        layout[at : at + rows.count] = source[begin + rows.start : begin + rows.stop]
        at += rows.count
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()  # HDF5 does not survive each failure of a write
    with h5py.File(content, "w", libver="latest") as file:
        file.create_virtual_dataset(VIRTUAL_DATASET, layout)
    with replacing(path) as new:
        new.write_bytes(content.getvalue())

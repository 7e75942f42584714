"""A run as a NeXus file: NXentry with an NXdata per stream, NXinstrument, NXsample, NXprocess."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from skywright.files.hdf5 import open_hdf5
from skywright.files.readers import HDF5
from skywright.store.export.contents import (
    EXPORTER,
    Column,
    RunContents,
    Stream,
    scanned_fields,
)
from skywright.store.lookup import as_mapping, sample_name, time_of

_RESERVED = {
    "bluesky", "definition", "duration", "end_time", "entry_identifier_uuid", "instrument",
    "experiment_identifier", "process", "program_name", "sample", "start_time", "title", "user",
}  # fmt: skip
_COUNTERS = ("seq_num", "identity")
_USER_KEYS = ("operator", "user", "user_name", "login_id")
_RESERVE_BYTES = 2 << 20
"""Room for what HDF5 writes beside the values of a dataset: the rest of a chunk, attributes."""
_TEXT_BYTES = 64
"""Room for a text in HDF5 beside its characters."""


def write_nexus(contents: RunContents, path: Path, *, link: bool = False) -> list[str]:
    """Write `contents` to the file `path`.

    Parameters
    ----------
    contents
        The run.
    path
        File to make.
    link
        Refer to the frames' own HDF5 files by external links where these hold exactly the rows of
        the run, instead of copying.

    Returns
    -------
    list of str
        What was copied although links were wanted, and which columns have texts that are changed.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    notes: list[str] = []
    with path.open("wb") as new:
        _allocate(new.fileno(), 0, _RESERVE_BYTES)  # a full disk fails here; HDF5 might die of it
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {
                "NX_class": "NXroot",
                "default": "entry",
                "creator": EXPORTER,
                "creator_version": version("skywright"),
                "file_time": _iso(datetime.now(UTC).timestamp()),
                "HDF5_Version": h5py.version.hdf5_version,
                "h5py_version": h5py.version.version,
            }
        )
        entry = _group(file, "entry", "NXentry")
        _write_entry(entry, contents)
        _write_documents(_group(entry, "bluesky", "NXcollection"), contents)
        instrument = _group(entry, "instrument", "NXinstrument")
        _set(
            instrument,
            "name",
            contents.start.get("instrument") or contents.start.get("beamline_id"),
        )
        written = [
            (stream, _write_stream(entry, stream, contents.start, link, notes))
            for stream in _best_first(contents.streams)
        ]
        _write_devices(instrument, written, contents.start)
        for _, data in written:
            if "signal" in data.attrs:
                entry.attrs.setdefault("default", data.name.rpartition("/")[2])
        file.flush()
        size = file.id.get_filesize()
    os.truncate(path, size)  # what was allocated and is not needed
    return notes


def _write_entry(entry: h5py.Group, contents: RunContents) -> None:
    """Write what a person asks first: what, when, who, on which sample, from which analysis."""
    start, stop = contents.start, contents.stop
    plan, scan_id = start.get("plan_name", "run"), start.get("scan_id")
    _set(
        entry,
        "title",
        start.get("title") or f"{plan} {scan_id if scan_id is not None else ''}".strip(),
    )
    _set(entry, "entry_identifier_uuid", start["uid"])
    _set(entry, "experiment_identifier", start.get("proposal") or start.get("proposal_id"))
    _set(entry, "program_name", "skywright").attrs["version"] = version("skywright")
    _set(entry, "start_time", _iso(time_of(start)))
    if stop:
        _set(entry, "end_time", _iso(time_of(stop)))
        _set(entry, "duration", time_of(stop) - time_of(start), units="s")
    user = next((start[key] for key in _USER_KEYS if isinstance(start.get(key), str)), None)
    if user:
        _set(_group(entry, "user", "NXuser"), "name", user)
    if sample_name(start) is not None:
        sample = _group(entry, "sample", "NXsample")
        _set(sample, "name", sample_name(start))
        for key, value in as_mapping(start.get("sample")).items():
            if key != "name" and isinstance(value, str | int | float):
                _set(sample, _name(key), value)
    if isinstance(start.get("analysis"), Mapping):
        process = _group(entry, "process", "NXprocess")
        _set(process, "program", start["analysis"].get("name"))
        _set(process, "version", start["analysis"].get("version"))
        _set(process, "date", _iso(time_of(start)))
        _set(process, "raw_uid", start.get("raw_uid"))
        _set(process, "parameters", json.dumps(start["analysis"].get("parameters", {})))


def _write_documents(group: h5py.Group, contents: RunContents) -> None:
    """Write every document as JSON text, so that nothing of the metadata is lost."""
    _set(group, "start", json.dumps(contents.start, ensure_ascii=False))
    if contents.stop:
        _set(group, "stop", json.dumps(contents.stop, ensure_ascii=False))
    _set(group, "status", contents.status)
    _set(group, "plan_name", contents.start.get("plan_name"))
    _set(group, "scan_id", contents.start.get("scan_id"))
    descriptors = _group(group, "descriptors", "NXcollection")
    for stream in contents.streams:
        _set(descriptors, stream.name, json.dumps(stream.descriptor, ensure_ascii=False))


def _write_stream(
    entry: h5py.Group, stream: Stream, start: Mapping[str, Any], link: bool, notes: list[str]
) -> h5py.Group:
    """Write a stream as NXdata; attributes say what to plot."""
    name = _name(stream.name)
    if name in _RESERVED:
        name = f"{name}_stream"
    while name in entry:  # a stream may be called sample_stream
        name += "_"
    data = _group(entry, name, "NXdata")
    for column in stream.columns:
        what = f"{stream.name}/{column.name}"
        if not (link and _link(data, column, what, notes)):
            _copy(data, column, what, notes)
    stamps = _group(data, stream.free_name("timestamps"), "NXcollection")
    for key, values in stream.timestamps.items():
        _set(stamps, _name(key), values, units="s")
    signal, axis = _plot(stream, start)
    if signal:
        rank = len(signal.shape)
        data.attrs["signal"] = _name(signal.name)
        data.attrs["axes"] = [_name(axis.name) if axis else ".", *["."] * (rank - 1)]
        if axis:
            data.attrs[f"{_name(axis.name)}_indices"] = [0]
    return data


def _copy(group: h5py.Group, column: Column, what: str, notes: list[str]) -> None:
    """Copy a column slice by slice, with its dtype; note it if a text has a NUL."""
    # HDF5 has no datetimes: they are ISO text
    is_text = column.dtype.kind in "UMm"
    dtype = h5py.string_dtype() if is_text else column.dtype
    chunks = column.chunk_shape() if len(column.shape) > 1 and 0 not in column.shape else None
    _allocate_dataset(group, column.shape, column.dtype)
    dataset = group.create_dataset(_name(column.name), column.shape, dtype, chunks=chunks)
    has_nul = False
    for rows, values in column.slices():
        dataset[rows] = _text(values) if is_text else values
        has_nul |= values.dtype.kind == "U" and any("\0" in text for text in values.flat)
    if has_nul:
        notes.append(f"{what}: NUL characters left out, HDF5 does not take them")
    key = column.data_key
    attributes = {
        "units": key.get("units") or ("s" if column.name == "time" else None),
        "long_name": column.name,
        "source": key.get("source"),
        "description": key.get("description"),
        "names": key.get("names"),
        "interpretation": {3: "image", 4: "rgb-image"}.get(len(column.shape)),
    }
    for name, value in attributes.items():
        if value is not None:
            dataset.attrs[name] = _attribute(value)


def _link(group: h5py.Group, column: Column, what: str, notes: list[str]) -> bool:
    """Link to the dataset of an external column if it holds exactly these rows."""
    if not column.external:
        return False
    try:
        if column.asset is None or column.asset.mimetype != HDF5:
            raise ValueError("not one HDF5 file")
        with open_hdf5(column.asset.file) as file:
            shape = file[column.asset.dataset].shape
            if shape != column.shape:
                raise ValueError(f"the file has shape {shape}, the run {column.shape}")
    except (OSError, KeyError, ValueError) as error:
        notes.append(f"{what}: copied, not linked: {error}")
        return False
    group[_name(column.name)] = h5py.ExternalLink(column.asset.file, column.asset.dataset)
    return True


def _write_devices(
    instrument: h5py.Group, written: list[tuple[Stream, h5py.Group]], start: Mapping[str, Any]
) -> None:
    """Write each device's configuration, and link its values of the first stream that has it.

    Of a field that several streams have, the value of the first one is written.
    """
    fields: dict[str, dict[str, tuple[Any, Any]]] = {}
    """Value and unit of each field of the configuration, by device."""
    columns_of: dict[str, tuple[h5py.Group, list[Column]]] = {}
    for stream, data in written:
        for device, config in as_mapping(stream.descriptor.get("configuration")).items():
            known = fields.setdefault(device, {})
            data_keys = as_mapping(as_mapping(config).get("data_keys"))
            for key, value in as_mapping(as_mapping(config).get("data")).items():
                known.setdefault(key, (value, as_mapping(data_keys.get(key)).get("units")))
        for column in stream.columns:
            if owner := column.data_key.get("object_name"):
                first, columns = columns_of.setdefault(owner, (data, []))
                if first == data:
                    columns.append(column)
    for device in dict.fromkeys((*fields, *columns_of)):
        if _name(device) in instrument:
            continue
        data, columns = columns_of.get(device, (instrument, []))
        group = _group(instrument, _name(device), _device_class(device, columns, start))
        for key, (value, units) in fields.get(device, {}).items():
            _set(group, _name(key), value, units=units)
        if "local_name" not in group:
            _set(group, "local_name", device)
        for column in columns:
            if _name(column.name) not in group:
                group[_name(column.name)] = h5py.SoftLink(f"{data.name}/{_name(column.name)}")
        images = [column for column in columns if len(column.shape) >= 3]
        role = {"NXdetector": "data", "NXpositioner": "value"}.get(group.attrs["NX_class"])
        main = images if images else columns
        if role and len(main) == 1 and role not in group:
            group[role] = h5py.SoftLink(f"{data.name}/{_name(main[0].name)}")


def _device_class(device: str, columns: list[Column], start: Mapping[str, Any]) -> str:
    if device in (start.get("motors") or ()):
        return "NXpositioner"
    is_array = any(len(column.shape) > 1 or column.external for column in columns)
    return "NXdetector" if is_array or device in (start.get("detectors") or ()) else "NXcollection"


def _plot(stream: Stream, start: Mapping[str, Any]) -> tuple[Column | None, Column | None]:
    """Choose what a viewer shows first: signal and axis.

    The signal is the first hinted number that is not the axis; without one, a picture of a camera
    that ran freely, else any number, else any array. The axis is the scanned motor as the plan
    hints, else the time of the event, else that of the frame.
    """
    numbers = {c.name: c for c in stream.columns if len(c.shape) == 1 and c.dtype.kind in "iuf"}
    scanned = [field for field in scanned_fields(start, stream.name) if field in numbers]
    axes = [*scanned, "time", *(name for name in numbers if name.endswith("_time"))]
    own = [name for name in numbers if name not in (*axes, *_COUNTERS)]
    arrays = [c for c in stream.columns if len(c.shape) > 1 and c.dtype.kind in "iuf"]
    pictures = [c for c in arrays if len(c.shape) > 2 and "time" not in numbers]
    candidates = [numbers[name] for name in stream.hinted if name in own]
    candidates += pictures + [numbers[name] for name in own] + arrays
    if not candidates:
        return None, None
    signal = candidates[0]
    same = (numbers[a] for a in axes if a in numbers and numbers[a].shape[0] == signal.shape[0])
    return signal, next(same, None)


def _best_first(streams: tuple[Stream, ...]) -> list[Stream]:
    """Order streams: primary, then those with most rows; baseline last."""

    def rank(stream: Stream) -> tuple[bool, bool, int]:
        rows = max((column.shape[0] for column in stream.columns), default=0)
        return stream.name != "primary", stream.name == "baseline", -rows

    return sorted(streams, key=rank)


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _allocate_dataset(group: h5py.Group, shape: tuple[int, ...], dtype: np.dtype) -> None:
    text_bytes = _TEXT_BYTES if dtype.kind in "UMm" else 0
    size = int(np.prod(shape)) * (dtype.itemsize + text_bytes)
    size += size // 1000 + _RESERVE_BYTES  # the index of chunks needs less than a thousandth
    _allocate(group.file.id.get_vfd_handle(), group.file.id.get_filesize(), size)


def _allocate(file: int, start: int, size: int) -> None:
    """Allocate bytes of a file, or raise OSError: HDF5 does not survive each failure of a write."""
    if hasattr(os, "posix_fallocate"):  # macOS has none
        os.posix_fallocate(file, start, size)


def _set(group: h5py.Group, name: str, value: object, units: str | None = None) -> Any:
    """Write a scalar, text or array; None is left out, other JSON is text."""
    if value is None:
        return None
    if isinstance(value, Mapping | list):
        array = _numeric(value)
        value = json.dumps(value) if array is None else array
    array = np.asarray(value)
    while name in group:
        name += "_"
    _allocate_dataset(group, array.shape, array.dtype)
    dataset = group.create_dataset(name, data=_text(array) if array.dtype.kind == "U" else value)
    if units:
        dataset.attrs["units"] = _attribute(units)
    return dataset


def _attribute(value: Any) -> Any:
    """Return a value as HDF5 takes it for an attribute: JSON as text, text without NUL."""
    if isinstance(value, Mapping | list):
        value = json.dumps(value)
    return value.replace("\0", "") if isinstance(value, str) else value


def _text(values: np.ndarray) -> Any:
    """Return values as texts without NUL, which HDF5 does not take."""
    return np.frompyfunc(lambda text: text.replace("\0", ""), 1, 1)(values.astype(str))


def _numeric(value: object) -> np.ndarray | None:
    """Return a list as an array of numbers, None if it is none."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different length
        return None
    return array if array.dtype.kind in "iufb" else None


def _name(key: str) -> str:
    """Return the key as a name that HDF5 does not take for a path."""
    name = key.replace("/", "_")
    return f"{name}_" if name in ("", ".") else name


def _iso(seconds: float) -> str | None:
    """Return a unix time as text; None after the year 9999, as if it were in milliseconds."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError, OSError):
        return None

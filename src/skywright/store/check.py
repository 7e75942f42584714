"""Compare a run in the catalog with its journal."""

from typing import Any

from skywright.files.readers import HDF5
from skywright.store.file_nodes import VIRTUAL_DATASET
from skywright.store.journal_contents import JournalContents, Stream
from skywright.store.table_adapter import MIMETYPE, rows_of
from skywright.store.tiled_writer import UNREADABLE_FILES


def differences(contents: JournalContents, run: Any) -> list[str]:
    """Return the differences between the run in the catalog and its journal; empty if equal.

    Parameters
    ----------
    contents
        Contents of the complete journal.
    run
        tiled's client of the run.

    Returns
    -------
    list of str
        One sentence per difference.
    """
    found = []
    stored_stop = run.metadata.get("stop") or {}
    if contents.stop is not None and stored_stop.get("uid") != contents.stop["uid"]:
        found.append("the stop document is missing, or another one")
    present = dict(run.include_data_sources().base.items())
    unreadable = set(run.metadata.get(UNREADABLE_FILES) or {})
    for name in set(present) - set(contents.streams):
        found.append(f"stream {name} is not in the journal")
    for name, stream in contents.streams.items():
        if name not in present:
            found.append(f"stream {name} is missing")
        else:
            found += [
                f"{name}: {problem}"
                for problem in _stream_differences(stream, present[name], unreadable)
            ]
    return found


def _stream_differences(stream: Stream, node: Any, unreadable: set[str]) -> list[str]:
    expected = stream.seq_nums()
    parts = dict(node.base.items())
    tables = [p for p in parts.values() if p.structure_family == "table"]
    found = []
    rows = _seq_nums(tables)
    if rows != expected:
        found.append(
            f"{len(rows)} rows, {len(expected)} events; {_first_difference(rows, expected)}"
        )
    for key in stream.internal:
        column = stream.columns.get(key)
        if column is not None and column.kind == "array":
            found += _array_difference(key, parts, len(expected))
    for key in stream.external_rows:
        if not unreadable.isdisjoint({f"{stream.name}/{key}", key}):  # bare key: older catalogs
            continue
        count = sum(each.count for each in stream.catalog_rows(key))
        found += _file_difference(key, parts, count)
        if stream.skips_rows(key) and key in parts and _starts_at_row_0(parts[key]):
            found.append(f"{key} has the rows of other seq_nums")
    return found


def _starts_at_row_0(node: Any) -> bool:
    """Return whether an array shows an HDF5 file, or its resource's slice of one, from row 0 on."""
    source = node.data_sources()[0]
    return source.mimetype == HDF5 and source.parameters["dataset"] != VIRTUAL_DATASET


def _seq_nums(tables: list[Any]) -> list[int]:
    for table in tables:
        if "seq_num" in table.columns:
            return [int(number) for number in table.read(["seq_num"])["seq_num"]]
    return []


def _first_difference(rows: list[int], expected: list[int]) -> str:
    pairs = enumerate(zip(rows, expected, strict=False))
    row = next((i for i, (one, other) in pairs if one != other), min(len(rows), len(expected)))
    return f"the first to differ is row {row}"


def _file_difference(key: str, parts: dict[str, Any], rows: int) -> list[str]:
    """Return what is wrong with a column of a file: in a table of columns, or an array."""
    for table in parts.values():
        if table.structure_family == "table" and key in table.columns:
            source = table.data_sources()[0]
            stored = rows_of(source) if source.mimetype == MIMETYPE else None
            if stored is None:
                return [f"{key}: its number of rows is not fixed, expected {rows}"]
            return [] if stored == rows else [f"{key} has {stored} rows instead of {rows}"]
    return _array_difference(key, parts, rows)


def _array_difference(key: str, parts: dict[str, Any], rows: int) -> list[str]:
    if key not in parts:
        return [f"{key} is missing"] if rows else []
    node = parts[key]
    if node.structure_family != "array" or node.shape[0] == rows:
        return []
    return [f"{key} has {node.shape[0]} rows instead of {rows}"]

"""A run as CSV: a file per stream, of columns with one value per row, and metadata as JSON."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skywright.store.export.contents import EXPORTER, Column, RunContents, Stream

METADATA_FILE = "metadata.json"
BLOCK_ROWS = 65_536
"""Number of rows that are converted to Python objects at a time. These objects take several times
the memory of the arrays."""


def write_csv(contents: RunContents, directory: Path) -> list[str]:
    """Write ``<stream>.csv`` files and ``metadata.json`` into `directory`.

    A number is the shortest decimal that reads back as the same 64-bit float; text is UTF-8; a
    datetime is ISO text, a duration a number of the units of its dtype.
    Columns in files whose number of rows differs from the events' (a camera that runs freely) go
    to ``<stream>-<rows>rows.csv``. Arrays do not fit: the metadata says where they are.

    Returns
    -------
    list of str
        What was left out.
    """
    directory.mkdir()
    notes: list[str] = []
    tables: dict[str, dict[str, str]] = {}
    arrays: dict[str, dict[str, Any]] = {}
    for stream in contents.streams:
        for name, columns in _tables(stream).items():
            _write_table(directory / name, columns)
            tables[name] = {key: values.dtype.str for key, values in columns.items()}
        for column in stream.columns:
            if len(column.shape) > 1:
                where = _where(column)
                arrays.setdefault(stream.name, {})[column.name] = where
                notes.append(
                    f"{stream.name}/{column.name}: array {column.shape} left out of the CSV, "
                    f"it is in {where.get('file', 'tiled')}"
                )
    metadata = {
        "exporter": EXPORTER,
        "status": contents.status,
        "start": contents.start,
        "stop": contents.stop,
        "descriptors": {stream.name: stream.descriptor for stream in contents.streams},
        "dtypes": tables,
        "arrays": arrays,
    }
    (directory / METADATA_FILE).write_text(
        json.dumps(metadata, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return notes


def _tables(stream: Stream) -> dict[str, dict[str, NDArray]]:
    """Return the columns with one value per row, by the name of their file."""
    scalars = [column for column in stream.columns if len(column.shape) == 1]
    if not scalars:
        return {}
    events = stream.column("seq_num")
    main_rows = events.shape[0] if events else max(column.shape[0] for column in scalars)
    tables: dict[str, dict[str, NDArray]] = {}
    for column in scalars:
        rows = column.shape[0]
        name = stream.name if rows == main_rows else f"{stream.name}-{rows}rows"
        tables.setdefault(f"{name}.csv", {})[column.name] = column.read(slice(0, rows))
    if events:
        stamps = {f"ts_{key}": values for key, values in stream.timestamps.items()}
        tables[f"{stream.name}.csv"] |= stamps
    return tables


def _write_table(path: Path, columns: Mapping[str, NDArray]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for begin in range(0, max(map(len, columns.values())), BLOCK_ROWS):
            block = slice(begin, begin + BLOCK_ROWS)
            cells = [_cells(values[block]) for values in columns.values()]
            writer.writerows(zip(*cells, strict=True))


def _cells(values: NDArray) -> Sequence[object]:
    """Return values whose `str` reads back as the same number or time."""
    if values.dtype.kind in "Mm":  # "2026-05-01T14:30:00", "5 seconds" without the unit, "NaT"
        return [text.partition(" ")[0] for text in values.astype(str).tolist()]
    if values.dtype.kind == "S":
        return [text.decode("utf-8", "backslashreplace") for text in values.tolist()]
    return values.tolist()


def _where(column: Column) -> dict[str, Any]:
    """Return where the values of an array are."""
    where: dict[str, Any] = {"shape": column.shape, "dtype": column.dtype.str}
    if column.asset:
        where |= {"file": str(column.asset.file), "dataset": column.asset.dataset}
    return where

"""Replace an earlier export: what it wrote goes, all other files in its directory stay."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from skywright.errors import DataError
from skywright.processes.scratch import hidden_prefix
from skywright.store.export.contents import EXPORTER
from skywright.store.export.csv import METADATA_FILE

ZARR_FILE = "zarr.json"
"""Documents of a Zarr group or array; that of the root marks our export."""
MARKS = {Path(METADATA_FILE), Path(ZARR_FILE)}
"""Files that say what an export wrote. One is there at each moment of a replacement, so that one
which is cut off can be repeated."""
SCRATCH = "export"
"""Name of the hidden directory in which an export is written; a process that is killed leaves it
to the next export."""
_CHUNK = re.compile(r"(?P<array>.+)/c(/\d+)*")


def refuse_foreign(output: Path) -> None:
    """Refuse to replace what is no export of ours.

    Raises
    ------
    DataError
        If `output` is a file or a directory of something else, a link to a directory, or a Zarr
        store of an earlier version, which does not say what it wrote.
    """
    if not output.is_dir():
        is_empty = output.is_file() and output.stat().st_size == 0
        if not is_empty and not _is_our_nexus(output):
            raise DataError(f"{output}: a file that is no export of ours; name another output")
    elif output.is_symlink():
        raise DataError(f"{output}: a link to a directory; name the directory itself")
    elif _has_entries(output):
        _own_entries(output)


def replace(part: Path, output: Path) -> None:
    """Move the whole export `part` to `output`, in place of the export that is there, if any.

    Files that the earlier export did not write stay where they are.

    Raises
    ------
    DataError
        If such a file is in the way of a new one. Nothing has changed then.
    """
    if not output.is_dir():
        if part.is_dir():  # a directory does not take the place of a file
            output.unlink(missing_ok=True)
        part.replace(output)
        return
    old = _own_entries(output) if _has_entries(output) else set()
    kept = _entries(output) - old - _parents(old)
    kept |= _parents(kept)
    new = _entries(part) if part.is_dir() else set()
    blocking = sorted(
        path for path in new & kept if not _are_directories(part / path, output / path)
    )
    if part.is_file():
        blocking = sorted(kept - _parents(kept))
    if blocking:
        raise DataError(
            f"{output / blocking[0]}: in the way of the new export, and not written by the earlier "
            "one; move it, or name another output"
        )
    old_marks, marks = _marks(output, old), _marks(part, new)
    _remove(output, old - old_marks)
    _move_into(part, output, marks)
    _remove(output, old_marks - marks)
    if part.is_dir():  # `output` stays: it may be the working directory
        _move_into(part, output, new - marks)
    else:
        output.rmdir()
        part.replace(output)


def _has_entries(directory: Path) -> bool:
    """Return whether a directory has more than exports under way."""
    under_way = hidden_prefix(SCRATCH)
    return any(not each.name.startswith(under_way) for each in directory.iterdir())


def _marks(directory: Path, entries: set[Path]) -> set[Path]:
    """Return the marks among entries; an array of such a name, a directory, is none."""
    return {path for path in entries & MARKS if (directory / path).is_file()}


def _parents(paths: set[Path]) -> set[Path]:
    return {parent for path in paths for parent in path.parents} - {Path()}


def _are_directories(*paths: Path) -> bool:
    return all(path.is_dir() and not path.is_symlink() for path in paths)


def _is_our_nexus(path: Path) -> bool:
    try:
        with h5py.File(path) as file:
            return file.attrs.get("creator") == EXPORTER and "entry/bluesky/start" in file
    except OSError:
        return False


def _own_entries(directory: Path) -> set[Path]:
    """Return what our CSV or Zarr export wrote in `directory`, relative to it.

    Of directories, only those of Zarr are among them; a link to one never is.

    Raises
    ------
    DataError
        If no export of ours is there, or one that does not say what it wrote.
    """
    csv = _read_json(directory / METADATA_FILE)
    attributes = _read_json(directory / ZARR_FILE, "attributes")
    is_csv, is_zarr = csv.get("exporter") == EXPORTER, attributes.get("exporter") == EXPORTER
    if not is_csv and not is_zarr:
        raise DataError(f"{directory}: a directory that is no export of ours; name another output")
    if is_zarr and "nodes" not in attributes:
        raise DataError(
            f"{directory}: an export of an earlier version, which does not say what it wrote; "
            "remove it, or name another output"
        )
    tables = {METADATA_FILE, *csv.get("dtypes", ())} if is_csv else set()
    nodes = {".", *attributes["nodes"]} if is_zarr else set()
    own = set()
    for path in _entries(directory):
        is_directory = (directory / path).is_dir()
        if is_directory and (directory / path).is_symlink():
            continue
        if path.as_posix() in (nodes if is_directory else tables) or _is_of_node(path, nodes):
            own.add(path)
    return own


def _read_json(path: Path, *keys: str) -> Mapping[str, Any]:
    """Return what a file has under `keys`, nothing if it is not there."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            value = value[key]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_of_node(path: Path, nodes: set[str]) -> bool:
    """Return whether a path has the documents of a group or array, or chunks of an array."""
    if path.name == ZARR_FILE:
        return path.parent.as_posix() in nodes
    chunk = _CHUNK.fullmatch(path.as_posix())
    return chunk is not None and chunk["array"] in nodes


def _entries(directory: Path) -> set[Path]:
    """Return all files and directories below `directory`, relative to it."""
    return {
        Path(where, name).relative_to(directory)
        for where, directories, files in os.walk(directory)
        for name in (*directories, *files)
    }


def _remove(directory: Path, entries: set[Path]) -> None:
    """Remove files, and directories that are empty or become so, those above them included."""
    for path in sorted(entries | _parents(entries), reverse=True):
        whole = directory / path
        if not whole.is_dir():
            whole.unlink()
        elif not any(whole.iterdir()):
            whole.rmdir()


def _move_into(part: Path, output: Path, entries: set[Path]) -> None:
    """Move entries of `part`; make those directories that `output` does not have."""
    for path in sorted(entries):
        if (part / path).is_dir():
            (output / path).mkdir(exist_ok=True)
        else:
            (part / path).rename(output / path)

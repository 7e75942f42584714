"""The metadata that lasts: ``RE.md`` of a session, a file for each key."""

import atexit
import logging
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgpack
import msgpack_numpy

from skywright.config import CommonSettings
from skywright.files.replacing import replacing

logger = logging.getLogger(__name__)


class SavedMetadata(MutableMapping[str, Any]):
    """Dictionary that saves each value in a file of its own.

    A change within a value is saved at the end of the process, or by `flush`. While a file cannot
    be written (a full disk), the value waits in memory. A file that is damaged is logged and left
    out. The files of bluesky's ``PersistentDict`` are read too; they have a number after the key.

    Parameters
    ----------
    directory
        Directory of the files; created if missing. One process at a time may have it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._values: dict[str, Any] = {}
        self._saved: dict[str, bytes] = {}
        self._trouble = ""
        directory.mkdir(parents=True, exist_ok=True)
        # The later of two files of a key counts; a dot is before the names of unfinished files
        files = [file for file in directory.glob("[!.]*") if file.is_file()]
        for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
            key, packed = unquote(file.name.partition("#")[0]), file.read_bytes()
            try:
                # msgpack packs keys that are numbers; if it is strict it refuses them here
                value = msgpack.unpackb(
                    packed, object_hook=msgpack_numpy.decode, strict_map_key=False
                )
            except (TypeError, ValueError) as error:
                todo = f"set RE.md[{key!r}] again, or remove the file"
                logger.error("%s: is damaged (%s); %s", file, error, todo)
                continue
            self._values[key] = value
            if file == self._files(key)[-1]:  # else `_save` replaces what PersistentDict has left
                self._saved[key] = packed
        atexit.register(self.flush)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._save(key, value)
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._remove_files(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"

    def set_for_session(self, values: Mapping[str, Any]) -> None:
        """Set values that each session sets; one is saved only if it is changed later.

        Defaults of ``[metadata]`` that ``PersistentDict`` has saved are removed.
        """
        for key, default in CommonSettings.model_fields["metadata"].default.items():
            of_bluesky = key in self._values and key not in self._saved
            if of_bluesky and _pack(self._values[key]) == _pack(default):
                del self[key]
        for key, value in values.items():
            self._remove_files(key)
            self._values[key], self._saved[key] = value, _pack(value)

    def flush(self) -> None:
        """Save the values that have changed, and those that could not be written."""
        for key, value in list(self._values.items()):
            try:
                self._save(key, value)
            except (TypeError, ValueError, OverflowError) as error:  # of a change within it
                logger.error("RE.md[%r] cannot be saved: %s", key, error)

    def _save(self, key: str, value: Any) -> None:
        packed = _pack(value)
        if packed == self._saved.get(key):
            return
        *earlier, path = self._files(key)
        try:
            with replacing(path, sync=True) as new:
                new.write_bytes(packed)
            for file in earlier:
                file.unlink()
        except OSError as error:
            reason = f"{self._directory}: cannot be written: {error.strerror or error}"
            if reason != self._trouble:
                logger.error("RE.md: %s; new values wait in memory", reason)
            self._trouble = reason
        else:
            self._saved[key], self._trouble = packed, ""

    def _remove_files(self, key: str) -> None:
        self._saved.pop(key, None)
        for file in self._files(key):
            file.unlink(missing_ok=True)

    def _files(self, key: str) -> list[Path]:
        """Return the files that a key may have; the last one is the one that is written."""
        name = quote(key, safe="")
        name = f"%2E{name[1:]}" if name.startswith(".") else name
        return [*self._directory.glob(f"{name}#*"), self._directory / name]


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=msgpack_numpy.encode)
    return packed

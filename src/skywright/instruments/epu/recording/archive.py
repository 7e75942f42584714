"""The file of a recording: ``recording.json`` and ``chunks/chunk_<n>.bin`` in a ``.tar.gz``.

The format is that of smartem-decisions' fsrecorder, version 2.0; its older plain ``.json`` is read
too. Text that is valid UTF-8 is stored in the events, all other content in chunks, so every byte
comes back. While a recording grows it is a directory, ``<file>.partial``, which can be read as
well: what a killed recorder has left is not lost.
"""

import gzip
import json
import os
import platform
import re
import reprlib
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, InstanceOf, Strict, TypeAdapter, ValidationError

from skywright.errors import DataError
from skywright.files.replacing import replacing

VERSION = "2.0"
INLINE_MAX = 1 << 20
"""Longer text goes into a chunk."""
LINE_MAX = 16 << 20
WHOLE_BYTES_MAX = 1 << 30
"""Bytes of a ``recording.json`` that is not written one event a line, and so is read at once."""

UNPACKED_MAX = 64 << 30
"""Bytes to which an archive may unpack, unless the caller allows another number."""

_CHUNK = re.compile(r"(?:chunks/)?(?:chunk_)?(\d{1,9})(?:\.bin)?")
EVENT_TYPES = frozenset(
    {
        *("initial_dir", "initial_file", "created", "modified"),
        *("appended", "truncated", "deleted", "moved"),
    }
)


class RecordingError(DataError):
    """A recording that is damaged, or that would write outside of its target."""


def _encodable(text: str) -> str:
    """Refuse text that cannot become bytes; those that are not UTF-8 are in it as surrogates."""
    text.encode("utf-8", "surrogateescape")
    return text


# `str` of pydantic takes no surrogates.
Text = Annotated[InstanceOf[str], AfterValidator(_encodable)]
Size = Annotated[int, Strict(), Field(ge=0, le=2**63 - 1)]
Time = Annotated[float, Strict(), Field(ge=0, le=2**32, allow_inf_nan=False)]
"""To the year 2106."""
Flag = Annotated[bool, Strict()]
Checked = TypeVar("Checked")


@dataclass(slots=True)
class RecordedEvent:
    """One change; paths are relative to the recorded directory, with ``/``.

    Attributes
    ----------
    timestamp
        Epoch seconds.
    event_type
        One of `EVENT_TYPES`.
    content
        Text of the file, or, of an ``appended`` event, the new text.
    binary_chunk_id
        Name of the chunk with the bytes instead.
    size
        Bytes of the whole file afterwards.
    content_hash
        sha256 of the whole file afterwards.
    file_position
        Where the new bytes of an ``appended`` event begin.
    is_placeholder
        The content was left out; the file is replayed with its size only.
    """

    timestamp: Time
    event_type: Text
    src_path: Text
    dest_path: Text | None = None
    is_directory: Flag = False
    content: Text | None = None
    binary_chunk_id: Text | None = None
    size: Size | None = None
    content_hash: Text | None = None
    file_position: Size | None = None
    operation_data: InstanceOf[dict[str, Any]] = field(default_factory=dict)
    is_placeholder: Flag = False


_EVENT = TypeAdapter(RecordedEvent)
_TEXT, _SIZE = TypeAdapter(Text | None), TypeAdapter(Size | None)


def safe_path(path: Any) -> str:
    """Return a relative path that stays below its root.

    Raises
    ------
    RecordingError
        If it is absolute, has ``..`` or a drive, or is no path at all.
    """
    if not isinstance(path, str) or not path or "\0" in path:
        raise RecordingError(f"not a path: {path!r}")
    parts = path.replace("\\", "/").split("/")
    drive = "[A-Za-z]:.*" if os.sep == "\\" else "[A-Za-z]:"  # elsewhere a name may have a colon
    if parts[0] == "" or ".." in parts or re.fullmatch(drive, parts[0]):
        raise RecordingError(f"a path that leaves the target directory: {path!r}")
    names = parts if os.sep == "\\" else path.split("/")
    return "/".join(name for name in names if name not in ("", ".")) or "."


def event_from(values: Any) -> RecordedEvent:
    """Return an event from its JSON.

    Raises
    ------
    RecordingError
        If a value is missing or of another type, or a path leaves the target.
    """
    if not isinstance(values, dict):
        raise RecordingError(f"an event must be an object, not {type(values).__name__}")
    given = {name: values.get(name) for name in RecordedEvent.__slots__}
    known = {name: value for name, value in given.items() if value is not None}
    event = _checked("an event", _EVENT, known)
    if event.event_type not in EVENT_TYPES:
        raise RecordingError(f"unknown event type {event.event_type!r}")
    event.src_path = safe_path(event.src_path)
    if event.event_type == "moved":
        event.dest_path = safe_path(event.dest_path)
    if event.event_type in ("moved", "deleted") and "." in (event.src_path, event.dest_path):
        raise RecordingError(f"the recorded directory itself cannot be {event.event_type}")
    if event.binary_chunk_id is not None:
        match = _CHUNK.fullmatch(event.binary_chunk_id)
        if match is None:
            raise RecordingError(f"not a chunk: {reprlib.repr(event.binary_chunk_id)}")
        event.binary_chunk_id = f"chunk_{int(match[1])}"
    _checked("new_size of an event", _SIZE, event.operation_data.get("new_size"))
    return event


def _checked(what: str, kind: TypeAdapter[Checked], value: Any) -> Checked:
    """Return what pydantic reads from a value; RecordingError names a part of it that is wrong."""
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        part = "".join(f"{name} of " for name in first["loc"])
        why = f"{first['msg']} (got {reprlib.repr(first['input'])})"
        if first["type"] == "missing":
            why = "missing"
        raise RecordingError(f"{part}{what} is wrong: {why}") from error


def printable(text: str) -> str:
    """Return text with escape sequences for the bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode(errors="backslashreplace")


class RecordingWriter:
    """Writes a recording; the operating system has each event when `write` returns.

    Parameters
    ----------
    path
        The ``.tar.gz``, which `close` makes.
    watched
        The directory that is recorded.
    """

    def __init__(self, path: Path, watched: Path) -> None:
        self.path = path
        self.partial = self.partial_of(path)
        if self.partial.exists():
            raise DataError(f"{self.partial}: left by a recorder that was killed; move it away")
        (self.partial / "chunks").mkdir(parents=True)
        self.count = 0
        self._chunks = 0
        self._metadata = {
            "recorded_at": datetime.now(UTC).isoformat(),
            "watch_dir": str(watched),
            "version": VERSION,
            "platform": platform.platform(),
        }
        self._write_metadata()
        self._lines = (self.partial / "events.jsonl").open("w", encoding="utf-8")

    @staticmethod
    def partial_of(path: Path) -> Path:
        """Return the directory of a recording that grows."""
        return path.with_name(path.name + ".partial")

    def _write_metadata(self) -> str:
        text = json.dumps(self._metadata | {"total_events": self.count})
        # On a full disk the old one stays, and the directory can be read.
        with replacing(self.partial / "metadata.json") as new:
            new.write_text(text)
        return text

    def add_chunk(self, data: bytes) -> str:
        """Store bytes; return the chunk's name."""
        name = f"chunk_{self._chunks}"
        self._chunks += 1
        (self.partial / "chunks" / f"{name}.bin").write_bytes(data)
        return name

    def write(self, event: RecordedEvent) -> None:
        """Append an event."""
        self._lines.write(json.dumps(asdict(event)) + "\n")
        self._lines.flush()
        self.count += 1

    def close(self) -> None:
        """Make the archive, in one step, and remove the directory."""
        self._lines.close()
        metadata = self._write_metadata()
        document = self.partial / "recording.json"
        with document.open("w", encoding="utf-8") as out:
            out.write('{"metadata": ' + metadata + ', "events": [\n')
            with (self.partial / "events.jsonl").open(encoding="utf-8") as lines:
                comma = ""
                for line in lines:
                    out.write(comma + line.rstrip("\n"))
                    comma = ",\n"
            out.write("\n]}\n")
        with (
            replacing(self.path) as new,
            tarfile.open(new, "w:gz", compresslevel=6) as archive,
        ):
            archive.add(document, "recording.json")
            for number in range(self._chunks):
                name = f"chunks/chunk_{number}.bin"
                archive.add(self.partial / name, name)
        shutil.rmtree(self.partial)


class Recording:
    """A recording that is open for reading.

    Parameters
    ----------
    document
        The file with the events.
    chunks
        The directory with the chunks.
    """

    def __init__(self, document: Path, chunks: Path) -> None:
        self._document = document
        self._chunks = chunks

    def metadata(self) -> dict[str, Any]:
        """Return the recording's metadata; raises RecordingError if they are damaged."""
        found = self._metadata()
        if not isinstance(found, dict):
            raise RecordingError(f"the metadata must be an object, not {type(found).__name__}")
        for name in ("recorded_at", "watch_dir", "version"):
            _checked(f"{name} of the metadata", _TEXT, found.get(name))
        return found

    def _metadata(self) -> Any:
        if self._document.suffix == ".jsonl":
            path = self._document.parent / "metadata.json"
            return _loaded(path.read_text(encoding="utf-8", errors="surrogateescape"))
        with self._document.open(encoding="utf-8", errors="surrogateescape") as file:
            first = file.readline(LINE_MAX)
        if first.rstrip().endswith('"events": ['):
            head = first.rstrip().removesuffix('"events": [').rstrip().rstrip(",") + "}"
            return _loaded(head).get("metadata", {})
        return self._whole().get("metadata", {})

    def _whole(self) -> dict[str, Any]:
        if self._document.stat().st_size > WHOLE_BYTES_MAX:
            raise RecordingError(f"the recording is larger than {WHOLE_BYTES_MAX} bytes")
        found = _loaded(self._document.read_text(encoding="utf-8", errors="surrogateescape"))
        if isinstance(found, list):
            return {"events": found}
        if not isinstance(found, dict):
            raise RecordingError("the recording is not a JSON object")
        return found

    def events(self) -> Iterator[RecordedEvent]:
        """Yield the events in order; raises RecordingError at the first that is damaged."""
        with self._document.open(encoding="utf-8", errors="surrogateescape") as file:
            if self._document.suffix == ".jsonl":
                for line in file:
                    if line.endswith("\n"):  # the last may be cut
                        yield event_from(_loaded(line))
                return
            if file.readline(LINE_MAX).rstrip().endswith('"events": ['):
                yield from _events_by_line(file)
                return
        events = self._whole().get("events")
        if not isinstance(events, list):
            raise RecordingError("the recording has no list of events")
        yield from map(event_from, events)

    def data(self, event: RecordedEvent) -> bytes | None:
        """Return the bytes of an event, None if it has none."""
        if event.binary_chunk_id is not None:
            try:
                return (self._chunks / f"{event.binary_chunk_id}.bin").read_bytes()
            except FileNotFoundError as error:
                raise RecordingError(f"{event.binary_chunk_id} is missing") from error
        if event.content is not None:
            return event.content.encode("utf-8", "surrogateescape")
        return None


def _events_by_line(file: IO[str]) -> Iterator[RecordedEvent]:
    while line := file.readline(LINE_MAX):
        text = line.strip()
        if text == "]}":
            return
        if text:
            yield event_from(_loaded(text.removesuffix(",")))
    raise RecordingError("the recording is cut")


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"the recording is not valid JSON: {error}") from error


@contextmanager
def open_recording(path: Path, max_unpacked: int = UNPACKED_MAX) -> Iterator[Recording]:
    """Open a ``.tar.gz``, an older ``.json``, or the directory of a recorder that was killed.

    Parameters
    ----------
    path
        The recording.
    max_unpacked
        Bytes to which a ``.tar.gz`` may unpack.

    Raises
    ------
    RecordingError
        If it is damaged, unpacks to more than `max_unpacked` bytes, or has a member that no
        recording has (a link, another path).
    OSError
        If it cannot be read, or there is no room to unpack it.
    """
    if path.is_dir():
        yield Recording(path / "events.jsonl", path / "chunks")
        return
    with path.open("rb") as file:
        magic = file.read(2)
    if magic != b"\x1f\x8b":
        yield Recording(path, path.parent / "chunks")
        return
    with tempfile.TemporaryDirectory(prefix="skywright-recording-") as directory:
        _unpack(path, Path(directory), max_unpacked)
        yield Recording(Path(directory) / "recording.json", Path(directory))


def _unpack(path: Path, directory: Path, max_unpacked: int) -> None:
    """Unpack the members that a recording has, each under a name of ours."""
    found = False
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.offset_data + member.size > max_unpacked:
                    raise RecordingError(f"the archive unpacks to more than {max_unpacked} bytes")
                chunk = re.fullmatch(r"(?:\./)?chunks/chunk_(\d{1,9})\.bin", member.name)
                if member.isdir():
                    continue
                if not member.isfile():
                    raise RecordingError(f"{member.name!r} in the archive is not a plain file")
                if member.name.removeprefix("./") == "recording.json":
                    name, found = "recording.json", True
                elif chunk:
                    name = f"chunk_{int(chunk[1])}.bin"
                else:
                    safe_path(member.name)
                    continue
                source = archive.extractfile(member)
                assert source is not None
                with (directory / name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, ValueError) as error:
        raise RecordingError(f"the archive is damaged: {error}") from error
    except OSError as error:
        reason = f"{error.strerror}, while it is unpacked into {directory}"
        raise OSError(error.errno, reason, str(path)) from error
    if not found:
        raise RecordingError("the archive has no recording.json")

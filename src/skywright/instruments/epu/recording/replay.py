"""Plays a recording into a directory, at the times of the original or faster."""

import hashlib
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from skywright.instruments.epu.recording.archive import (
    UNPACKED_MAX,
    RecordedEvent,
    Recording,
    RecordingError,
    open_recording,
    printable,
)

FAST_SPEED, FAST_MAX_GAP_S = 100.0, 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a recording is played.

    Attributes
    ----------
    speed
        Factor on time; infinite is without waits.
    max_gap
        Longest wait between two events in seconds; None is any.
    """

    speed: float = FAST_SPEED
    max_gap: float | None = FAST_MAX_GAP_S

    def times(self, events: Iterator[RecordedEvent]) -> Iterator[tuple[float, RecordedEvent]]:
        """Yield each event with its time in seconds after the first."""
        due, last = 0.0, None
        for event in events:
            if last is not None:
                gap = max(0.0, event.timestamp - last) / self.speed
                due += gap if self.max_gap is None else min(gap, self.max_gap)
            last = event.timestamp
            yield due, event


@dataclass(slots=True)
class Replayed:
    """Result of a replay: number of events, and a line for each file that came out different."""

    events: int = 0
    differences: list[str] = field(default_factory=list)


def replay(
    path: Path,
    target: Path,
    pace: Pace,
    verify: bool = True,
    skip_unreadable: bool = False,
    wait: Callable[[float], object] | None = None,
    max_unpacked: int = UNPACKED_MAX,
) -> Replayed:
    """Play the recording `path` into the directory `target`.

    The whole recording is checked before the first file is written. Waits are counted from the
    start, so a replay does not drift.

    Parameters
    ----------
    path, target
        The recording, and a directory, which is made if it is not there.
    pace
        How fast.
    verify
        Compare each file's sha256 after each event.
    skip_unreadable
        Leave out files that the recorder could not read.
    wait
        Waits some seconds; the replay ends when it returns true, as the `wait` of an event does.
    max_unpacked
        Bytes to which the recording may unpack.

    Raises
    ------
    RecordingError
        If the recording is damaged, or a path or a link would leave `target`.
    OSError
        If a file cannot be written.
    """
    pause = wait or threading.Event().wait
    result = Replayed()
    with open_recording(path, max_unpacked) as recording:
        for event in recording.events():
            if event.binary_chunk_id is not None:
                recording.data(event)
        target.mkdir(parents=True, exist_ok=True)
        player = _Player(recording, target.resolve(), verify)
        start = time.monotonic()
        for due, event in pace.times(recording.events()):
            if skip_unreadable and (event.content_hash or "").startswith("unreadable_"):
                continue
            delay = max(start + due - time.monotonic(), 0.0)
            if pause(min(delay, threading.TIMEOUT_MAX)):
                break
            difference = player.apply(event)
            if difference:
                result.differences.append(difference)
            result.events += 1
    return result


class _Player:
    def __init__(self, recording: Recording, target: Path, verify: bool) -> None:
        self.recording = recording
        self.target = target
        self.verify = verify
        self._placeholders: set[int] = set()
        """Inodes of files without their content: no later event gives them the recorded sha256."""

    def _inside(self, path: str) -> Path:
        """Return a path below the target; raise RecordingError if a link leads out of it."""
        if path == ".":
            return self.target
        full = self.target / path
        parent = full.parent.resolve()
        if parent != self.target and self.target not in parent.parents:
            raise RecordingError(f"{printable(path)}: a link leads out of the target directory")
        return full

    def apply(self, event: RecordedEvent) -> str | None:
        """Do what an event says; return how the file differs from the recorded one."""
        path = self._inside(event.src_path)
        if event.event_type == "moved":
            target = self._inside(event.dest_path or "")
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.replace(target)
            return None
        if event.event_type == "deleted":
            _remove(path)
            return None
        if event.is_directory or event.event_type == "initial_dir":
            if event.event_type in ("initial_dir", "created"):
                path.mkdir(parents=True, exist_ok=True)
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()  # not written through: it may lead anywhere
        data = self.recording.data(event)
        try:
            difference = self._write(path, event, data)
        except OSError as error:
            error.filename = error.filename or str(path)  # a full disk names no file
            raise
        _set_time(path, event)
        return difference

    def _write(self, path: Path, event: RecordedEvent, data: bytes | None) -> str | None:
        if data is None or event.is_placeholder:
            size = event.size or event.operation_data.get("new_size") or 0
            with path.open("ab") as file:
                file.truncate(size)
            if event.is_placeholder:
                self._placeholders.add(path.stat().st_ino)
        elif event.event_type == "appended":
            position = event.file_position
            with path.open("ab") as file:
                if position is not None and file.tell() != position:
                    name = printable(event.src_path)
                    return f"{name}: has {file.tell()} bytes where {position} are expected"
                file.write(data)
        else:
            data = _with_line_ends(data, event)
            path.write_bytes(data)
            self._placeholders.discard(path.stat().st_ino)
        if not self.verify or path.stat().st_ino in self._placeholders:
            return None
        return self._difference(path, event, data)

    def _difference(self, path: Path, event: RecordedEvent, data: bytes | None) -> str | None:
        expected = event.content_hash
        if expected is None or expected.startswith("unreadable_"):
            return None
        with path.open("rb") as file:
            digests = {hashlib.file_digest(file, "sha256").hexdigest()}
        if event.event_type == "appended" and data is not None:
            digests.add(hashlib.sha256(data).hexdigest())  # some recorders give the new bytes'
        return None if expected in digests else f"{printable(event.src_path)}: sha256 differs"


def _with_line_ends(data: bytes, event: RecordedEvent) -> bytes:
    """Return text with the carriage returns that smartem-decisions' recorder leaves out.

    Its size and its sha256 are those of the file: they say whether each line had one.
    """
    if event.content is None or event.size != len(data) + data.count(b"\n"):
        return data
    whole = data.replace(b"\n", b"\r\n")
    return whole if hashlib.sha256(whole).hexdigest() == event.content_hash else data


def _set_time(path: Path, event: RecordedEvent) -> None:
    """Give a file the time that it had, if the recording has it."""
    mtime = event.operation_data.get("mtime")
    if isinstance(mtime, int | float):
        with suppress(OSError, OverflowError, ValueError):  # a time that no file can have
            os.utime(path, (mtime, mtime))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(slots=True)
class Summary:
    """What a recording holds."""

    recorded_at: str | None
    watch_dir: str | None
    version: str | None
    events: int
    seconds: float
    counts: dict[str, int]


def summarize(path: Path, max_unpacked: int = UNPACKED_MAX) -> Summary:
    """Return the counts per event type of a recording; raises as `replay` does."""
    counts: Counter[str] = Counter()
    first = last = 0.0
    with open_recording(path, max_unpacked) as recording:
        metadata = recording.metadata()
        for event in recording.events():
            counts[event.event_type] += 1
            first = first or event.timestamp
            last = event.timestamp
    names = ("recorded_at", "watch_dir", "version")
    recorded_at, watch_dir, version = (
        printable(text) if (text := metadata.get(name)) else None for name in names
    )
    return Summary(recorded_at, watch_dir, version, counts.total(), last - first, dict(counts))

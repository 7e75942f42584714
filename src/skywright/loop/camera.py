"""The owner of the camera: takes pictures from a source, hands them to faces, records them.

One thread decides and writes; whoever calls only asks. Nothing that the source hands over is lost
without being counted by its cause.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.feed import Feed
from skywright.loop.frames import ByteQueue, pixels
from skywright.loop.recorder import FLUSH_S, Recorder, WrongSizeError
from skywright.loop.sources import Source, SourceFrame

logger = logging.getLogger(__name__)

QUEUE_BYTES = 64_000_000
SILENCE_S = 2.0
"""After this long without a picture the owner says so."""
LOST_CAUSES = ("undecodable", "wrong size", "queue full", "not written")


@dataclass(eq=False)
class Acquisition:
    """A request for pictures: `wanted` of them, 0 until it is stopped.

    `seen` is called with each picture as it comes, on the source's thread; it must return at once.
    """

    wanted: int
    seen: Callable[[SourceFrame], None] | None = None
    taken: int = 0
    stopping: bool = False
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class CameraState:
    """What the owner knows at one moment.

    Attributes
    ----------
    shape
        (H, W) or (H, W, 3) of the pictures; (0, 0) before the first one when nobody told.
    frames, taken
        Pictures taken since the start of the process, and in this acquisition.
    frame_number, frame_time
        Identity and time (unix s) of the last one.
    captured
        Pictures of this recording that a reader of the file may trust.
    write_error
        Why the last picture could not be written; empty when it was.
    message, alarm
        What a person should know; `alarm` when somebody should act.
    lost
        Pictures lost, by cause (`LOST_CAUSES`), since the start of the process.
    truth
        What a simulator says of the last picture; for scoring only.
    """

    acquiring: bool = False
    shape: tuple[int, ...] = (0, 0)
    frames: int = 0
    taken: int = 0
    frame_number: int = -1
    frame_time: float = 0.0
    capturing: bool = False
    captured: int = 0
    file: str = ""
    write_error: str = ""
    message: str = "idle"
    alarm: bool = False
    lost: tuple[int, ...] = (0,) * len(LOST_CAUSES)
    truth: Mapping[str, Any] | None = None


class Camera:
    """The owner. All methods may be called from any thread.

    Parameters
    ----------
    source
        Where pictures come from; the owner closes it.
    changed
        Called, from any thread, after the state has changed; must return at once.
    color
        True records (H, W, 3) RGB, False (H, W) grey.
    """

    def __init__(
        self, source: Source, changed: Callable[[], None] | None = None, color: bool = False
    ) -> None:
        self.source = source
        self.changed = changed or (lambda: None)
        self.color = color
        self.single_path: Callable[[], Path] | None = None
        """When set, each picture goes to a file of its own, of the path that this gives."""
        self._lock = threading.RLock()
        self._source_lock = threading.Lock()
        self._queue: ByteQueue[Acquisition] = ByteQueue(QUEUE_BYTES)
        self._acquisition: Acquisition | None = None
        self._faces: list[Feed[SourceFrame]] = []
        self._newest: SourceFrame | None = None
        self._size = source.size
        self._recorder = Recorder()
        self._lost: Counter[str] = Counter()
        self._frames = 0
        self._last: SourceFrame | None = None
        self._last_arrival = time.monotonic()
        self._message, self._alarm = "idle", False
        self._silent = False
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="camera", daemon=True)
        self._thread.start()

    # ---- state

    def state(self) -> CameraState:
        """Return what is known now."""
        with self._lock:
            acquisition, last = self._acquisition, self._last
            return CameraState(
                acquiring=acquisition is not None,
                shape=self._shape(),
                frames=self._frames,
                taken=0 if acquisition is None else acquisition.taken,
                frame_number=-1 if last is None else last.frame_number,
                frame_time=0.0 if last is None else last.time,
                capturing=self._recorder.path is not None,
                captured=self._recorder.visible,
                file=str(self._recorder.path or ""),
                write_error=self._recorder.error,
                message=self._message,
                alarm=self._alarm,
                lost=tuple(self._lost[cause] for cause in LOST_CAUSES),
                truth=None if last is None else last.truth,
            )

    def _shape(self) -> tuple[int, ...]:
        if self._recorder.shape is not None:
            return self._recorder.shape
        size = self.source.size or self._size
        if size is None:
            return (0, 0)
        width, height = size
        return (height, width, 3) if self.color else (height, width)

    def _say(self, message: str, alarm: bool = False) -> None:
        with self._lock:
            if (message, alarm) == (self._message, self._alarm):
                return
            self._message, self._alarm = message, alarm
        logger.log(logging.WARNING if alarm else logging.INFO, "camera: %s", message)
        self.changed()

    # ---- what others ask for

    def acquire(
        self, wanted: int = 0, seen: Callable[[SourceFrame], None] | None = None
    ) -> Acquisition:
        """Start to take pictures; an acquisition under way goes on and is returned.

        Parameters
        ----------
        wanted
            Number of pictures, 0 takes them until `stop`.
        seen
            Called with each picture as it comes, on the source's thread; must return at once.

        Returns
        -------
        Acquisition
            Its event `done` is set when the pictures are in the file and visible there.
        """
        with self._lock:
            if self._acquisition is None:
                self._acquisition = Acquisition(wanted, seen)
                self._last_arrival = time.monotonic()
            acquisition = self._acquisition
        self._say("taking pictures")
        self._run_source()
        self.changed()
        return acquisition

    def stop(self) -> Acquisition | None:
        """End the acquisition under way; what has arrived is still recorded, then `done` is set."""
        with self._lock:
            acquisition = self._acquisition
            if acquisition is not None and not acquisition.stopping:
                acquisition.stopping = True
                self._queue.put_end(acquisition)
        return acquisition

    def start_capture(self, path: Path, count: int = 0, lazy: bool = False) -> str:
        """Start a recording; one under way is closed first.

        Parameters
        ----------
        path
            Of the new ``.h5`` file; its directory must exist.
        count
            Number of pictures after which it ends by itself, 0 never.
        lazy
            Create the file with the first picture only, in that picture's size.

        Returns
        -------
        str
            Why it failed; empty when it did not.
        """
        with self._lock:
            known = (self.source.size or self._size) is not None and not lazy
            self._recorder.close()
            self._recorder.start(path, count, self._shape() if known else None)
            error = self._recorder.error
        if error:
            self._say(error, alarm=True)
        self.changed()
        return error

    def stop_capture(self) -> None:
        """Close the recording, with all that has arrived before in it."""
        with self._lock:
            self._recorder.close()
        self.changed()

    def set_color(self, color: bool) -> bool:
        """Choose color or grey; return what is in use, which a recording fixes."""
        with self._lock:
            if self._recorder.path is None:
                self.color = color
        self.changed()
        return self.color

    def subscribe(self, depth: int = 1) -> Feed[SourceFrame]:
        """Ask for pictures as they come; the source runs as long as anybody does.

        Parameters
        ----------
        depth
            Pictures that may wait to be fetched; further ones push out the oldest.
        """
        feed = Feed(depth, self.unsubscribe)
        with self._lock:
            self._faces.append(feed)
        self._run_source()
        return feed

    def unsubscribe(self, feed: Feed[SourceFrame]) -> None:
        """End a subscription."""
        with self._lock:
            if feed in self._faces:
                self._faces.remove(feed)
        self._run_source()

    def latest(self) -> tuple[SourceFrame, NDArray[np.uint8]] | None:
        """Return the newest picture with its pixels; None before the first or if undecodable."""
        frame = self._newest
        if frame is None:
            return None
        try:
            return frame, pixels(frame, self.color)
        except DataError:
            return None

    def close(self) -> None:
        """Record what has arrived, close the files and the source."""
        self._closing = True
        acquisition = self.stop()
        if acquisition is not None:
            acquisition.done.wait(3.0)
        with self._lock:
            self._faces.clear()
        self.source.close()
        self._queue.put_end(None)
        self._thread.join(2.0)
        self.stop_capture()

    # ---- the source's thread

    def _run_source(self) -> None:
        """Run the source when anybody wants pictures, stop it when nobody does."""
        with self._source_lock:
            with self._lock:
                wanted = bool(self._faces) or (
                    self._acquisition is not None and not self._acquisition.stopping
                )
            if wanted and not self._closing:
                self.source.start(self._deliver, self._report)
            else:
                self.source.stop()

    def _report(self, message: str) -> None:
        self._say(message, alarm=True)

    def _deliver(self, frame: SourceFrame) -> None:
        self._newest = frame
        with self._lock:
            acquisition = self._acquisition
            for face in self._faces:
                face.offer(frame)
        if acquisition is None or acquisition.stopping:
            return
        if acquisition.seen is not None:
            acquisition.seen(frame)
        if not self._queue.put(frame, acquisition):
            self._lose("queue full", frame, f"{QUEUE_BYTES / 1e6:.0f} MB wait to be written")

    # ---- the camera's thread

    def _work(self) -> None:
        while True:
            item = self._queue.get(FLUSH_S)
            if item is None:
                self._when_quiet()
                continue
            frame, acquisition = item
            if acquisition is None:
                return
            with self._lock:
                if frame is None:
                    self._finish(acquisition)
                elif acquisition is self._acquisition:
                    self._take(frame, acquisition)
                    self._flush_when_due(acquisition)
            if acquisition.done.is_set():
                self._run_source()
            self.changed()

    def _when_quiet(self) -> None:
        with self._lock:
            flushed = self._recorder.flush(now=True)
            silence = time.monotonic() - self._last_arrival
            waiting = self._acquisition is not None
        if flushed:
            self.changed()
        if waiting and silence > SILENCE_S and not self._silent:  # the source may tell why, later
            self._silent = True
            self._say(
                f"no picture from {self.source.name} for more than {SILENCE_S:g} s", alarm=True
            )

    def _take(self, frame: SourceFrame, acquisition: Acquisition) -> None:
        self._last_arrival = time.monotonic()
        shape: tuple[int, ...] = (0, 0)
        try:
            image = pixels(frame, self.color)
            shape = image.shape
            self._size = shape[1], shape[0]
            if self.single_path is not None:
                self._recorder.record_alone(frame, image, self.single_path())
            self._recorder.record(frame, image)
        except WrongSizeError as error:
            self._reject(frame, "wrong size", error, shape)
        except DataError as error:
            self._reject(frame, "undecodable", error, shape)
        except Exception as error:  # whatever it is, the next picture may be good
            self._lose("not written", frame, error)
        else:
            acquisition.taken += 1
            self._frames += 1
            self._last = frame
            if self._silent:
                self._silent = False
                self._say("taking pictures")

    def _reject(
        self, frame: SourceFrame, cause: str, why: Exception, shape: tuple[int, ...]
    ) -> None:
        self._lose(cause, frame, why)
        try:
            self._recorder.reject(frame, cause, shape)
        except OSError as error:
            self._say(f"frame {frame.frame_number}: {error}", alarm=True)

    def _lose(self, cause: str, frame: SourceFrame, why: Exception | str) -> None:
        with self._lock:
            self._lost[cause] += 1
        self._say(f"frame {frame.frame_number}: {cause}: {why}", alarm=True)

    def _flush_when_due(self, acquisition: Acquisition) -> None:
        complete = bool(acquisition.wanted) and acquisition.taken >= acquisition.wanted
        self._recorder.flush(now=complete)
        if complete:
            self._finish(acquisition)

    def _finish(self, acquisition: Acquisition) -> None:
        self._recorder.flush(now=True)
        if acquisition is self._acquisition:
            acquisition.stopping = True
            self._acquisition = None
            if self._silent or not self._alarm:  # else the trouble stays to be read
                self._say("idle")
        acquisition.done.set()

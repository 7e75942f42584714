"""Devices whose IOC appends rows to files at its own pace, or indexes rows that others write.

The IOC posts the number of rows; the device turns that number into documents and never waits for a
value. A count that goes back, a heartbeat that stops and a lost connection each become one error
that the plan sees.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignalRO, Kind, Signal

from devices.file_stream import FileStream
from devices.guarded import PUT_S, GuardedDevice
from skywright.errors import HardwareError

SETTLE_S = 1.0
"""Longest wait until monitors show what the IOC answers when it is asked, s."""
LOOK_S = 0.02


class FollowingDevice(GuardedDevice):
    """A device that follows the rows that its IOC appends to a file, whenever they come.

    A silent IOC is no error as long as its heartbeat goes on: a telescope sees nothing for minutes,
    a microscope pauses. Subclasses call `_follow` when they are made, open their recording in
    `_open` by `_record`, and close it in `unstage`.

    Parameters
    ----------
    prefix
        Of the PVs, with its colon.
    assets
        Directory below which the IOC writes; a dated directory in it is made for each day.
    name
        Of the device.
    """

    unit = "row"
    """What a row of the recording is, for messages."""

    heartbeat = Cpt(EpicsSignalRO, "HEARTBEAT", kind=Kind.omitted, auto_monitor=True)
    heartbeat_limit = Cpt(Signal, value=10.0, kind=Kind.config, metadata={"units": "s"})
    """Longest time without a heartbeat, s, before following fails; 0 waits for ever."""

    def __init__(self, prefix: str, *, assets: Path, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.assets = Path(assets)
        self._news = threading.Condition()
        self._last_beat = time.monotonic()
        self._fault: HardwareError | None = None
        self._abort = self._watching = False
        self._followed: list[FileStream] = []
        if self.heartbeat is not None:
            self.heartbeat.subscribe(self._on_heartbeat, run=False)

    def _follow(self, stream: FileStream, captured: EpicsSignalRO) -> None:
        """Let `captured`, the row count of the IOC, move the rows of `stream`."""
        first = not self._followed
        self._followed.append(stream)
        captured.subscribe(lambda value, **_: self._on_rows(stream, int(value)), run=False)
        if first:
            captured.subscribe(self._on_connection, event_type=captured.SUB_META, run=False)

    def _open(self) -> None:
        """Open the recording; `_record` does it for one file."""
        raise NotImplementedError

    def _telling(self) -> tuple[EpicsSignalRO, ...]:
        """Return the signals with the IOC's messages for people."""
        raise NotImplementedError

    def check_size(self) -> None:
        """Check that rows have the size that the documents promise, where that can change."""

    # ---- what the IOC posts (Channel Access threads)

    def _on_rows(self, stream: FileStream, rows: int) -> None:
        with self._news:
            self._count(stream, rows)
            self._news.notify_all()

    def _count(self, stream: FileStream, rows: int) -> None:
        """Note a count of the IOC; it goes back with a new file, never while one is open."""
        if stream.file and rows < stream.rows:
            self._lose("its count went back, it was restarted")
        else:
            stream.rows = rows

    def _on_heartbeat(self, **_: Any) -> None:
        with self._news:
            self._last_beat = time.monotonic()
            self._news.notify_all()

    def _on_connection(self, connected: bool = True, **_: Any) -> None:
        with self._news:
            if not connected:
                self._lose("it does not answer any more")
            self._news.notify_all()

    def _lose(self, why: str) -> None:
        recorded = next((stream for stream in self._followed if stream.file), None)
        if recorded is not None and self._fault is None:
            self._fault = HardwareError(
                f"{self.name}: lost the IOC at {self.prefix} during a recording ({why}); restart "
                f"it if need be and repeat. {recorded.rows} {self.unit}s are in {recorded.file}"
            )

    # ---- staging

    def stage(self) -> list[Any]:
        """Open a recording in a file of its own.

        Raises
        ------
        HardwareError
            If the IOC does not answer, or cannot write.
        """
        self.connect()
        staged = super().stage()
        try:
            self._abort, self._fault, self._watching = False, None, False
            self._be_idle()
            self._open()
        except BaseException:
            self.unstage()  # a recording that was opened before the one that failed is closed
            raise
        return staged

    def _be_idle(self) -> None:
        """End what a client before has left under way; called before the recording is opened."""

    def stop(self, *, success: bool = False) -> None:
        """End every wait at once."""
        with self._news:
            self._abort = True
            self._news.notify_all()
        super().stop(success=success)

    # ---- following, from kickoff to complete of its flyer

    def begin_flight(self) -> None:
        """Follow the rows from now on."""
        self._check_staged()
        with self._news:
            self._last_beat = time.monotonic()
        self._watching = True

    def end_flight(self) -> None:
        """Catch up with the rows that the IOC counts now."""
        self._raise_fault()
        self._watching = False
        for stream, captured in self._counters():
            if stream.file:
                self._catch_up(stream, captured)
        self._raise_fault()

    def _counters(self) -> tuple[tuple[FileStream, EpicsSignalRO], ...]:
        """Return the followed streams with the signals that count their rows."""
        raise NotImplementedError

    def in_background(self, work: Callable[[], None]) -> Any:
        """Run `work` on a thread; the status ends with it, and has its exception."""
        return self._background(work)

    # ---- waiting, always with a limit

    def _record(
        self,
        stream: FileStream,
        captured: EpicsSignalRO,
        name: str,
        beside: Sequence[tuple[FileStream, EpicsSignalRO]] = (),
    ) -> None:
        """Open a file of that name, without its ending; `stream` refers to it from then on.

        `beside` are streams of files that the IOC opens at the same time.
        """
        for signal, value in stream.plugin.settings(self.assets, name):
            self._put(signal, value)
        before = [(*each, self._settled_count(*each)) for each in ((stream, captured), *beside)]
        self._put(stream.plugin.capture, 1)
        for each in before:
            self._await_new_count(*each)
        stream.begin(self._ask(stream.plugin.full_file_name))

    def _settled_count(self, stream: FileStream, captured: EpicsSignalRO) -> int:
        """Return the rows of the file before, when monitors show them too."""
        deadline = time.monotonic() + SETTLE_S
        while stream.rows != (rows := int(self._ask(captured))) and time.monotonic() < deadline:
            threading.Event().wait(LOOK_S)
        return rows

    def _await_new_count(self, stream: FileStream, captured: EpicsSignalRO, before: int) -> None:
        """Wait until the row count is one of the new file.

        The previous file is closed, so a count that differs is one of the new file. The IOC has
        posted the count of the new file before it completed the put of `capture`; if the IOC still
        answers with the same count after `SETTLE_S`, the new file has as many rows already.
        """
        started = time.monotonic()
        while before and stream.rows == before:
            waited = time.monotonic() - started
            if waited > SETTLE_S and int(self._ask(captured)) == before == stream.rows:
                return
            if waited > PUT_S:
                raise HardwareError(
                    f"{self.name}: {captured.pvname} is still {before}, as in the file before; "
                    f"{self._reason()}"
                )
            threading.Event().wait(LOOK_S)

    def _wait_anew(self, reached: Callable[[], bool]) -> None:
        """Wait as for the first row: an earlier silence does not count."""
        with self._news:
            self._last_beat = time.monotonic()
            self._wait(reached)

    def _wait(self, reached: Callable[[], bool]) -> None:
        with self._news:
            while not reached():
                self._raise_fault()
                if self._abort:
                    raise HardwareError(f"{self.name}: stopped")
                self._raise_silence()
                self._news.wait(0.2)

    def _catch_up(self, stream: FileStream, captured: EpicsSignalRO) -> None:
        """Wait until the rows are those that the IOC counts now; its monitors come later."""
        rows = int(self._ask(captured))
        self._wait_anew(lambda: stream.rows >= rows)

    def raise_trouble(self) -> None:
        """Raise why no row comes, if one should.

        Raises
        ------
        HardwareError
            If the IOC is gone or its heartbeat has stopped.
        """
        self._raise_fault()
        if self._expects_rows():
            self._raise_silence()

    def _expects_rows(self) -> bool:
        """Return whether rows should come now."""
        return self._watching

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _raise_silence(self) -> None:
        limit, silence = self.heartbeat_limit.get(), time.monotonic() - self._last_beat
        if limit and silence > limit:
            raise HardwareError(
                f"{self.name}: no heartbeat of the IOC at {self.prefix} for {silence:.1f} s; "
                f"{self._reason()}"
            )

    def _reason(self) -> str:
        """Return the IOC's messages about its trouble."""
        try:
            messages = [signal.get(timeout=0.5) for signal in self._telling()]
        except Exception:  # each control layer has its own
            return "and its IOC does not answer"
        return "the IOC says: " + ("; ".join(filter(None, messages)) or "nothing")

    def _check_staged(self) -> None:
        if not self._followed[0].file:
            raise HardwareError(f"{self.name}: not staged; stage it before it takes {self.unit}s")

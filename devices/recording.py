"""What devices do alike whose IOC records at its own pace: it says how far, they say what is wrong.

The IOC appends rows to a file and posts their count; nothing else is waited for. No news for too
long, a count that goes back, a connection that is lost: each becomes one error that the plan sees.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind, Signal
from ophyd.areadetector.base import EpicsSignalWithRBV

from devices.file_stream import FileStream
from devices.guarded import GuardedDevice
from skywright.errors import HardwareError


class RecordingDevice(GuardedDevice):
    """A device that acquires by ``cam1:`` and whose IOC records.

    Subclasses call `_follow` when they are made and open their recording in `_open`, by `_record`;
    the signals that `_telling` returns say for people what is wrong.

    Parameters
    ----------
    prefix
        Of the PVs, with its colon.
    assets
        Directory below which the IOC writes; a dated directory in it is made for each day.
    name
        Of the device.
    """

    unit = "picture"
    """What a row of the recording is, for messages."""

    acquire = Cpt(EpicsSignal, "cam1:Acquire", kind=Kind.omitted, put_complete=True)
    acquiring = Cpt(EpicsSignalRO, "cam1:Acquire_RBV", kind=Kind.omitted, auto_monitor=True)
    image_mode = Cpt(EpicsSignalWithRBV, "cam1:ImageMode", kind=Kind.omitted, put_complete=True)
    width = Cpt(EpicsSignalRO, "cam1:ArraySizeX_RBV", kind=Kind.config)
    height = Cpt(EpicsSignalRO, "cam1:ArraySizeY_RBV", kind=Kind.config)

    silence_limit = Cpt(Signal, value=4.0, kind=Kind.config, metadata={"units": "s"})
    """Longest time without a row, s, before an acquisition fails; 0 waits for ever."""

    def __init__(self, prefix: str, *, assets: Path, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.assets = Path(assets)
        self._news = threading.Condition()
        self._last_news = time.monotonic()
        self._fault: HardwareError | None = None
        self._abort = self._watching = self._acquiring = False

    def _follow(self, stream: FileStream, captured: EpicsSignalRO) -> None:
        """Let `captured`, the count of the IOC, move the rows of `stream`."""
        self._recorded = stream
        captured.subscribe(self._on_rows, run=False)
        self.acquiring.subscribe(self._on_acquiring, run=False)
        captured.subscribe(self._on_connection, event_type=captured.SUB_META, run=False)

    def _open(self) -> None:
        """Open the recording; `_reset` comes first."""
        raise NotImplementedError

    def _telling(self) -> tuple[EpicsSignalRO, ...]:
        """Return the signals with what the IOC says for people."""
        raise NotImplementedError

    # ---- what the IOC says (Channel Access threads)

    def _on_rows(self, value: int, **_: Any) -> None:
        with self._news:
            self._count(self._recorded, int(value))
            self._last_news = time.monotonic()
            self._news.notify_all()

    def _count(self, stream: FileStream, rows: int) -> None:
        """Note a count of the IOC; it goes back with a new file, never while one is open."""
        if stream.file and rows < stream.rows:
            self._lose("its count went back, it was restarted")
        else:
            stream.rows = rows

    def _on_acquiring(self, value: int, **_: Any) -> None:
        with self._news:
            self._acquiring = bool(value)
            self._news.notify_all()

    def _on_connection(self, connected: bool = True, **_: Any) -> None:
        with self._news:
            if not connected:
                self._lose("it does not answer any more")
            self._news.notify_all()

    def _lose(self, why: str) -> None:
        recorded = self._recorded
        if recorded.file and self._fault is None:
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
            If the IOC does not answer, sends nothing, or cannot write.
        """
        self.connect()
        staged = super().stage()
        try:
            self._abort, self._fault, self._watching = False, None, False
            self._put(self.acquire, 0)
            self._open()
        except BaseException:
            self.unstage()  # a recording that was opened before the one that failed is closed
            raise
        return staged

    def stop(self, *, success: bool = False) -> None:
        """Stop acquiring at once."""
        with self._news:
            self._abort = True
            self._news.notify_all()
        if self.connected:
            with self._told("cannot be stopped"):
                self.acquire.put(0, wait=False)
        super().stop(success=success)

    # ---- acquiring, always with a limit

    def _record(self, stream: FileStream, captured: EpicsSignalRO, name: str) -> None:
        """Open a file of that name, without its ending, and tell of it in `stream`."""
        for signal, value in stream.plugin.settings(self.assets, name):
            self._put(signal, value)
        self._put(stream.plugin.capture, 1)
        rows = int(self._ask(captured))
        self._wait_anew(lambda: stream.rows <= rows)  # no longer those of the file before
        stream.begin(self._ask(stream.plugin.full_file_name))

    def check_size(self) -> None:
        """Check that rows are of the size that documents promise, where that can change."""

    def _start_acquiring(self) -> None:
        """Put without waiting: completion comes when the rows have."""
        with self._news:
            self._last_news = time.monotonic()
        with self._told("cannot start"):
            self.acquire.put(1, wait=False)

    def _wait_anew(self, reached: Callable[[], bool]) -> None:
        """Wait as for the first row: what was before is no silence."""
        with self._news:
            self._last_news = time.monotonic()
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
        """Wait until the rows are those that the IOC counts now; its monitors tell it later."""
        rows = int(self._ask(captured))
        self._wait_anew(lambda: stream.rows >= rows)

    def raise_trouble(self) -> None:
        """Raise why no row comes, if one should.

        Raises
        ------
        HardwareError
            If the IOC is gone, or flies and has recorded nothing for `silence_limit`.
        """
        self._raise_fault()
        if self._watching:
            self._raise_silence()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _raise_silence(self) -> None:
        limit, silence = self.silence_limit.get(), time.monotonic() - self._last_news
        if limit and silence > limit:
            raise HardwareError(
                f"{self.name}: no {self.unit} in the file for {silence:.1f} s; {self._reason()}"
            )

    def _reason(self) -> str:
        """Return what the IOC has to say about its trouble."""
        try:
            said = [signal.get(timeout=0.5) for signal in self._telling()]
        except Exception:  # each control layer has its own
            return "and its IOC does not answer"
        return "the IOC says: " + ("; ".join(filter(None, said)) or "nothing")

    def _check_staged(self) -> None:
        if not self._recorded.file:
            raise HardwareError(f"{self.name}: not staged; stage it before it takes {self.unit}s")

"""A watched EPU directory as an ophyd device: each grid's rows as streams of its own run."""

import json
import logging
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind
from ophyd.status import DeviceStatus
from ophyd.utils import WaitTimeoutError

from devices.file_stream import FileStream
from devices.guarded import PUT_S, GuardedDevice
from skywright.errors import HardwareError
from skywright.files.stream_columns import StreamColumn
from skywright.instruments.epu.runs.layouts import COLUMNS, ROW, STREAMS
from skywright.waiting import pause

LONG_TEXT: dict[str, Any] = {"kind": Kind.omitted, "string": True}
BEAT_S = 2.0
"""Seconds between signs of life; the IOC waits 15 s for one."""
BEGIN_S = 120.0
"""Time limit, s, for the begin of a run; the IOC writes at most 15,000 rows/s."""
logger = logging.getLogger(__name__)

TEXT: dict[str, Any] = {"kind": Kind.normal, "string": True, "auto_monitor": True}
COUNT: dict[str, Any] = {"kind": Kind.normal, "auto_monitor": True}


def stream_columns(kind: str) -> tuple[StreamColumn, ...]:
    """Return the columns of a kind of entity that documents tell of."""
    name = STREAMS[kind].removesuffix("s")
    return (
        StreamColumn(f"{name}_row", ROW, "<i8"),
        *(
            StreamColumn(f"{name}_{each.name}", each.path, each.dtype, units=each.units)
            for each in COLUMNS[kind]
        ),
    )


class EntityStream(FileStream):
    """The rows of one kind of entity in one run."""

    def __init__(self, device: "EpuWatcher", kind: str, run: str, directory: Path) -> None:
        name = f"{device.name}_{STREAMS[kind]}"
        plugin: Any = SimpleNamespace(prefix=device.prefix)  # the source of the keys
        super().__init__(device, name, plugin, lambda: stream_columns(kind))
        self._kind, self._run = STREAMS[kind], run
        self.begin(str(directory / f"{run}_{self._kind}.h5"))

    def get_index(self) -> int:
        """Return the number of rows that are visible in the file."""
        self.rows = max(self.rows, self.device.rows(self._run, self._kind))
        return self.rows


class EpuWatcher(GuardedDevice):
    """A watched EPU directory behind the PVs of `iocs.epu`.

    Reading it gives progress, health and the suggestion: the grid's uuid, the next square, why, and
    its next holes, separated by spaces. Rows are not in events: `begin` opens the files of a run;
    `streams` then gives ``squares``, ``holes``, ``micrographs`` and ``results``. A thread tells the
    IOC that the session lives, also while the plan is paused.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    assets
        Directory below which the IOC writes; a dated directory in it is made for each day.
    name
        Name of the device.
    """

    directory = Cpt(EpicsSignalRO, "ROOT", kind=Kind.config, string=True)
    path_map = Cpt(EpicsSignalRO, "PATH_MAP", kind=Kind.config, string=True)
    watch_state = Cpt(EpicsSignalRO, "STATE", kind=Kind.omitted, string=True, auto_monitor=True)
    message = Cpt(EpicsSignalRO, "MESSAGE", **TEXT)
    n_gridsquares = Cpt(EpicsSignalRO, "N_GRIDSQUARE", **COUNT)
    n_foilholes = Cpt(EpicsSignalRO, "N_FOILHOLE", **COUNT)
    n_micrographs = Cpt(EpicsSignalRO, "N_MICROGRAPH", kind=Kind.hinted, auto_monitor=True)
    n_unreadable = Cpt(EpicsSignalRO, "N_UNREADABLE", **COUNT)
    n_refused = Cpt(EpicsSignalRO, "N_REFUSED", **COUNT)
    queue = Cpt(EpicsSignalRO, "QUEUE", **COUNT)
    rate = Cpt(EpicsSignalRO, "RATE", **COUNT)
    latency = Cpt(EpicsSignalRO, "LATENCY", **COUNT)
    suggested_grid = Cpt(EpicsSignalRO, "SUGGESTION_GRID", **TEXT)
    best_square = Cpt(EpicsSignalRO, "BEST_GRIDSQUARE", **TEXT)
    reason = Cpt(EpicsSignalRO, "SUGGESTION_REASON", **TEXT)
    next_holes = Cpt(EpicsSignalRO, "NEXT_FOILHOLES", **TEXT)
    sequence = Cpt(EpicsSignalRO, "SEQUENCE", kind=Kind.omitted, auto_monitor=True)
    idle = Cpt(EpicsSignalRO, "IDLE", kind=Kind.omitted, auto_monitor=True)
    grids_json = Cpt(EpicsSignalRO, "GRIDS", **LONG_TEXT)
    runs_json = Cpt(EpicsSignalRO, "RUNS", **LONG_TEXT)
    stop_request = Cpt(EpicsSignal, "STOP_RBV", write_pv="STOP", kind=Kind.omitted, string=True)
    begin_run = Cpt(EpicsSignal, "BEGIN", kind=Kind.omitted, string=True, put_complete=True)
    end_run = Cpt(EpicsSignal, "END", kind=Kind.omitted, string=True, put_complete=True)

    alive_runs = Cpt(EpicsSignal, "ALIVE", kind=Kind.omitted, string=True)

    def __init__(self, prefix: str, *, assets: Path, name: str = "epu", **kwargs: Any) -> None:
        self.assets = assets
        self._lock = threading.Lock()
        self._directories: dict[str, Path] = {}
        """Directory of the files of each run that is open or being opened."""
        self._open: set[str] = set()
        self._beats = False
        super().__init__(prefix, name=name, **kwargs)

    def stage(self) -> list[Any]:
        """Withdraw an earlier stop request, because a request is for one plan.

        Raises
        ------
        HardwareError
            If the IOC does not answer.
        """
        self.connect()
        self._put(self.stop_request, "No")
        return super().stage()

    def unstage(self) -> list[Any]:
        """Withdraw the stop request that has ended the plan; does not fail when the IOC is gone."""
        with suppress(HardwareError):
            self._put(self.stop_request, "No")
        return super().unstage()

    def grids(self) -> list[dict[str, Any]]:
        """Return the grids: uuid, name, session, data_dir, amends, waiting (rows without run)."""
        found: list[dict[str, Any]] = json.loads(self._read_now(self.grids_json) or "[]")
        return found

    def runs(self) -> dict[str, dict[str, int]]:
        """Return the open runs and the last closed ones: for each uid the rows, by stream."""
        found: dict[str, dict[str, int]] = json.loads(self._read_now(self.runs_json) or "{}")
        return found

    def rows(self, run: str, stream: str) -> int:
        """Return the rows that may be read from the file of a stream of a run."""
        return int(self.runs().get(run, {}).get(stream, 0))

    def is_scanned(self) -> bool:
        """Return whether the directory has been read once as a whole, and nothing waits.

        The IOC is asked: a value that a monitor brought while the signal connected can be older
        than the last one, and of an idle IOC no newer one comes.
        """
        return bool(
            self._read_now(self.watch_state) == "Watching" and self._read_now(self.queue) == 0
        )

    def stop_requested(self) -> bool:
        """Return whether somebody has asked the plan to end."""
        return bool(self._read_signal(self.stop_request) == "Yes")

    def suggestion(self) -> tuple[str, ...]:
        """Return the suggested square with its grid, and its next holes."""
        signals = (self.suggested_grid, self.best_square, self.next_holes)
        return tuple(str(self._read_signal(signal)) for signal in signals)

    def begin(self, grid: str, run: str) -> DeviceStatus:
        """Open the files of a run; done when their rows are posted, see `streams`.

        The status fails with HardwareError if the IOC does not open them within `BEGIN_S`, or is
        gone.
        """
        self._directories[run] = self.assets / "epu" / f"{datetime.now():%Y/%m/%d}"
        wanted = {"grid": grid, "run": run, "directory": str(self._directories[run])}

        def begin_run() -> None:
            with self._hardware_errors(f"the run has not begun within {BEGIN_S:g} s"):
                status = self.begin_run.set(json.dumps(wanted), timeout=BEGIN_S)
                while not status.done:
                    self.raise_if_silent()
                    with suppress(WaitTimeoutError):
                        status.wait(1.0)
            if run not in self.runs():
                message = self._read_signal(self.message)
                raise HardwareError(f"{self.name}: the IOC has not opened the run: {message}")
            with self._lock:
                is_wanted = run in self._directories
                if is_wanted:
                    self._open.add(run)
                if is_wanted and not self._beats:
                    self._beats = True
                    name = f"{self.name}-alive"
                    threading.Thread(target=self._beat, name=name, daemon=True).start()
            if not is_wanted:  # it was ended meanwhile, which may have come before its begin
                self._end(f"{run} unread")

        return self.in_background(begin_run)

    def streams(self, run: str) -> list[EntityStream]:
        """Return the streams of a run that has begun."""
        return [EntityStream(self, kind, run, self._directories[run]) for kind in STREAMS]

    def end(self, run: str, streams: list[EntityStream]) -> None:
        """Take the last rows of a run, and close its files.

        If these are not all its streams, its rows come again in the next run of the grid.

        Raises
        ------
        HardwareError
            If the IOC does not take it, or is gone.
        """
        with self._lock:
            self._directories.pop(run, None)
            self._open.discard(run)
        how = run if len(streams) == len(STREAMS) else f"{run} unread"
        self._end(how)
        for stream in streams:
            stream.get_index()

    def _end(self, how: str) -> None:
        with self._hardware_errors(f"{self.end_run.pvname} has not been taken within {PUT_S:g} s"):
            self.end_run.put(how, wait=True, timeout=PUT_S)

    def _beat(self) -> None:
        """Tell the IOC that the session lives, as long as it has runs open."""
        while True:
            with self._lock:
                self._beats = bool(self._open)
                runs = " ".join(sorted(self._open))
            if not runs:
                return
            try:
                self.alive_runs.put(runs, wait=False)
            except Exception as error:  # the plan finds out by itself that the IOC is gone
                logger.debug("%s: %s", self.name, error)
            pause(BEAT_S)

    def trigger(self) -> DeviceStatus:
        """Return a status that is done at the next commit, or after a second."""
        before = self._read_signal(self.sequence)
        committed = threading.Event()

        def check(value: Any = None, **_: Any) -> None:
            if value != before:
                committed.set()

        def wait() -> None:
            committed.wait(1.0)
            self.sequence.clear_sub(check)

        self.sequence.subscribe(check, run=False)
        return self.in_background(wait)

    def raise_if_silent(self) -> None:
        """Raise HardwareError if the IOC is gone."""
        if not self.sequence.connected:
            raise HardwareError(f"{self.name}: the IOC {self.prefix} does not answer")

    def check_size(self) -> None:
        """Do nothing: all rows of a kind have one size."""

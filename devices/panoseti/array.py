"""The modules of one data acquisition as a device that tracks a run."""

import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.protocols import Status
from ophyd import Component as Cpt
from ophyd import EpicsSignalRO, Kind, Signal

from devices.file_stream import FilePlugin, FileStream
from devices.guarded import GuardedDevice, Setting
from skywright.errors import HardwareError
from skywright.files.beside import sibling
from skywright.files.readers import HDF5, open_reader
from skywright.files.stream_columns import StreamColumn
from skywright.instruments.panoseti.event_columns import COLUMNS, NUMBER
from skywright.instruments.panoseti.products import PRODUCTS
from skywright.instruments.panoseti.rundir import RunDirectory, is_under_way, run_of
from skywright.instruments.panoseti.telescopes import telescopes_in, telescopes_text
from skywright.waiting import pause

logger = logging.getLogger(__name__)

INDEX = "/entry/index"
ENDED = 2
NEWEST = "newest"
"""As `TrackRun`: no run by name."""
SETTLE_S = 30.0
"""Longest time without a frame while a rate is measured, s."""
LAG_S = 600.0
"""Longest time by which frames may be late then, s; else the clocks of two computers differ."""
GONE_S = 2.0
"""An IOC that does not answer for this time after an error is lost, s."""
CONFIGS_S = 10.0
"""The configuration of a run without frames is awaited for this time, s."""
PASS_S = 1.0
"""Frames of all files are in the event table this long after the newest one is seen, s."""


def columns_of(name: str, product: str) -> tuple[StreamColumn, ...]:
    """Return the columns of the index of one slot and product; `name` begins their keys."""
    shape, dtype = (PRODUCTS[product].side,) * 2, np.dtype(PRODUCTS[product].dtype).str
    return (
        StreamColumn(f"{name}_time", f"{INDEX}/time_ns", "<i8", units="ns"),
        StreamColumn(f"{name}_number", f"{INDEX}/identity", "<i8"),
        StreamColumn(f"{name}_frame", f"{INDEX}/frame", "<i8"),
        StreamColumn(f"{name}_file", f"{INDEX}/file", "<i4"),
        StreamColumn(f"{name}_flags", f"{INDEX}/flags", "|u1"),
        StreamColumn(f"{name}_quabo", f"{INDEX}/quabo", "|u1"),
        StreamColumn(f"{name}_module", f"{INDEX}/module", "<i4"),
        StreamColumn(f"{name}_header", f"{INDEX}/header", "<i8", (PRODUCTS[product].quabos, 5)),
        StreamColumn(f"{name}_image", product, dtype, shape, mimetype="application/x-pff"),
    )


EVENTS = tuple(StreamColumn.of(each, "events_") for each in (NUMBER, *COLUMNS))
"""Pulse-height events of all modules; `skywright.instruments.panoseti.event_table` says what."""


class LostIocError(HardwareError):
    """The IOC is gone, or was restarted, while a run was tracked."""


class Panoseti(GuardedDevice):
    """Modules whose runs something else takes; `track` and `end_track` index one run.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    assets
        Directory below which the IOC writes the indexes.
    name
        Name of the device.
    slots
        Slots of the IOC.

    Attributes
    ----------
    run_metadata
        What a start document has of the run that `find_run` has found, JSON: ``pff_run``, its name,
        and ``run_configs``, its configuration files without passwords.
    telescopes
        Where the telescopes of that run are and point to, JSON; in the configuration of its
        streams.
    streams
        For each slot and product its rows, and those of the event table: Collectable.
    is_lost
        Whether the IOC was lost during the present, or last, tracking.
    losses
        How often the IOC was lost while a run was tracked.
    """

    run_name = Cpt(EpicsSignalRO, "Run_RBV", kind=Kind.config, string=True)
    track_name = Cpt(Setting, "TrackRun", kind=Kind.omitted, string=True)
    data_dir = Cpt(EpicsSignalRO, "DataDir_RBV", kind=Kind.config, string=True)
    run_state = Cpt(EpicsSignalRO, "RunState_RBV", kind=Kind.omitted, auto_monitor=True)
    message = Cpt(EpicsSignalRO, "Message_RBV", kind=Kind.omitted, string=True)
    grpc_port = Cpt(EpicsSignalRO, "GrpcPort_RBV", kind=Kind.omitted)
    threshold = Cpt(Setting, "SIM:Threshold", kind=Kind.omitted)
    flasher = Cpt(Setting, "SIM:Flasher", kind=Kind.omitted)
    shutter = Cpt(Setting, "SIM:Shutter", kind=Kind.omitted)
    trigger_rate = Cpt(Signal, value=float("nan"), kind=Kind.hinted)
    run_metadata = Cpt(Signal, value="{}", kind=Kind.omitted)
    telescopes = Cpt(Signal, value="[]", kind=Kind.config)
    sim_running = Cpt(Setting, "SIM:Running", kind=Kind.omitted)
    sim_error = Cpt(EpicsSignalRO, "SIM:Error_RBV", kind=Kind.omitted, string=True)
    plugin = Cpt(FilePlugin, "HDF1:", kind=Kind.omitted)

    def __init__(
        self, prefix: str, *, assets: Path, name: str, slots: int = 4, **kwargs: Any
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.assets = Path(assets)
        self.streams: dict[str, FileStream] = {}
        self._counts: dict[str, EpicsSignalRO] = {}
        self._events_path: Path | None = None
        self._found_run = ""
        self._known: dict[str, int] = {}
        """Rows of each index as last read from the IOC."""
        self._is_tracking = self.is_lost = False
        self._ended = threading.Event()
        """Set while this session tracks no run."""
        self._ended.set()
        self.losses = 0
        self._newest = [
            EpicsSignalRO(f"{prefix}M1:{product}:Time_RBV", name=f"{name}_{product}_newest")
            for product in PRODUCTS
        ]
        for slot in range(1, slots + 1):
            for product in PRODUCTS:
                key = f"m{slot}_{product}"
                pv = f"{prefix}M{slot}:{product}:Rows_RBV"
                self._counts[key] = EpicsSignalRO(pv, name=f"{name}_{key}_rows")
                self.streams[key] = _IndexStream(
                    self, f"{name}_{key}", self.plugin, partial(columns_of, key, product)
                )
        self._counts["events"] = EpicsSignalRO(f"{prefix}EventRows_RBV", name=f"{name}_events_rows")
        self.streams["events"] = _IndexStream(self, f"{name}_events", self.plugin, lambda: EVENTS)

    def find_run(self, limit_s: float, wait_for_new: bool = False) -> Status:
        """End an open recording of the IOC, wait until there is a run, and read its configuration.

        Done when `run_metadata` has it, or when there was no run for `limit_s`.

        Parameters
        ----------
        limit_s
            Longest time to wait, s.
        wait_for_new
            Pass over a run that is over; if none is under way within `limit_s`, the status fails.
        """
        return self.in_background(lambda: self._find_run(limit_s, wait_for_new))

    def track(self) -> Status:
        """Begin to index the run that `find_run` has found; done when frames are indexed."""
        return self.in_background(self._begin)

    def run_simulated(self, running: bool) -> Status:
        """Start or end a run: of the simulated array, or of packets with the source ``sockets``."""
        return self.in_background(lambda: self._simulate(running))

    def check_no_run(self) -> Status:
        """Return a status that fails if the IOC takes a run already."""
        return self.in_background(self._check_no_run)

    def check_run(self) -> Status:
        """Return a status that fails if the IOC could not write its newest run."""
        return self.in_background(self._check_run)

    def set_threshold(self, threshold_adc: float) -> Status:
        """Set the threshold of the simulated boards, ADC; done when they have it."""
        return self.in_background(lambda: self._put(self.threshold, threshold_adc))

    def set_flasher(self, photoelectrons: float) -> Status:
        """Set the simulated flat-field light of each pixel, 0 for none; done when it is set."""
        return self.in_background(lambda: self._put(self.flasher, photoelectrons))

    def open_shutter(self, is_open: bool) -> Status:
        """Open or close the shutters of the simulated array; done when they are."""
        return self.in_background(lambda: self._put(self.shutter, int(is_open)))

    def measure_rate(self, seconds: float) -> Status:
        """Measure the rate of triggers from now on; done when `trigger_rate` has it, Hz.

        It is the rate of all pulse-height frames of all modules by their own times. A run is being
        tracked.
        """
        return self.in_background(lambda: self._measure_rate(seconds))

    def wait_for_run(self, limit_s: float) -> Status:
        """Return a status that is done when the run has ended and all its frames are indexed.

        It is done too after `limit_s`, or when `end_track` ends the tracking.
        """
        return self.in_background(lambda: self._wait(limit_s))

    def end_track(self) -> Status:
        """Close the indexes; done when every frame found is visible in them."""
        return self.in_background(self._end)

    def raise_if_silent(self) -> None:
        """Raise nothing: a run may have no new frames for a long time."""

    def check_size(self) -> None:
        """Images have one size for each product."""

    def recorded(self) -> Sequence[str]:
        """Return the streams that have rows."""
        return [key for key, stream in self.streams.items() if stream.get_index()]

    def rows(self, key: str) -> int:
        """Return the rows of one index; when the IOC is lost, those that were read last.

        Raises
        ------
        HardwareError
            When the IOC is lost, once.
        """
        if not self.is_lost:
            self._known[key] = int(self._ask(self._counts[key]))
        return self._known.get(key, 0)

    def _ask(self, signal: EpicsSignalRO) -> Any:
        """Return the value of a PV while a run is tracked; without an answer the IOC is lost."""
        try:
            return self._read_signal(signal)
        except LostIocError:
            raise
        except HardwareError as error:
            raise self._mark_lost("it does not answer") from error

    @contextmanager
    def _hardware_errors(self, what: str) -> Iterator[None]:
        """Turn errors into `HardwareError`; while a run is tracked, that of a lost IOC says so."""
        try:
            with super()._hardware_errors(what):
                yield
        except HardwareError as error:
            if self._is_tracking and not self.is_lost and self._is_gone():
                raise self._mark_lost("it does not answer") from error
            raise

    def _is_gone(self) -> bool:
        """Ask the IOC: its PVs are not noticed to be disconnected all at the same moment."""
        try:
            self.plugin.capture.get(use_monitor=False, timeout=GONE_S, connection_timeout=GONE_S)
        except Exception:  # whatever the control layer raises
            return True
        return False

    def _check_ioc(self, ended: threading.Event) -> None:
        """Raise if the IOC is gone, or was restarted: then it does not index any more.

        With `ended` set it does not either: this session has ended the tracking.
        """
        if not self._ask(self.plugin.capture) and not ended.is_set():
            raise self._mark_lost("it was restarted, or its recording was ended")

    def _mark_lost(self, reason: str) -> LostIocError:
        """Note that the IOC is lost; return the error to raise."""
        self.is_lost = True
        self.losses += 1
        frames = sum(rows for key, rows in self._known.items() if key != "events")
        return LostIocError(
            f"{self.name}: lost the IOC at {self.prefix} while a run was tracked ({reason}); start "
            "the IOC if it does not run, then track the run again: that begins with the first "
            f"frame of the run. {frames} frames were reported before"
        )

    def _close_leftover(self) -> None:
        """Connect, and end a recording that was left behind: until then the IOC shows its run.

        A session that was killed, or a plan that was aborted in its cleanup, has not ended its
        tracking. What still waits for that must not take its end for a loss of the IOC.
        """
        self._ended.set()
        self._is_tracking, self.is_lost, self._known = False, False, {}
        self.connect()
        self._put(self.plugin.capture, 0)

    def _begin(self) -> None:
        self._close_leftover()
        for signal in (*self._counts.values(), *self._newest):
            signal.wait_for_connection(timeout=5.0)
        name = f"{self.name}-{time.time_ns()}"
        for signal, value in self.plugin.settings(self.assets, name):
            self._put(signal, value)
        self._put(self.track_name, self._found_run or NEWEST)
        self._put(self.plugin.capture, 1)
        self._is_tracking, self._ended = True, threading.Event()
        file = Path(self._read_now(self.plugin.full_file_name))
        for key, stream in self.streams.items():
            stream.begin(str(sibling(file, key)))
        self._events_path = sibling(file, "events")

    def _find_run(self, limit_s: float, wait_for_new: bool) -> None:
        self._close_leftover()
        self._found_run = ""
        if wait_for_new:
            data_dir = Path(self._read_now(self.data_dir))
            if not any(data_dir.rglob("*.pffd")):  # nor will the next run be seen
                self._check_mounted(str(self._read_now(self.run_name)), data_dir)
        deadline = time.monotonic() + limit_s
        while True:
            name = str(self._read_now(self.run_name))
            data_dir = Path(self._read_now(self.data_dir))
            if name and (not wait_for_new or is_under_way(data_dir, name)):
                break
            if time.monotonic() > deadline:
                if wait_for_new:
                    self._check_mounted(name, data_dir)
                    raise HardwareError(f"{self.name}: no run was under way within {limit_s:g} s")
                self.run_metadata.put("{}")
                self.telescopes.put("[]")
                return
            pause(0.5 if wait_for_new else 0.1)
        self._check_mounted(name, data_dir)
        self._found_run = name
        run = run_of(data_dir, name)
        if not self._read_now(self.sim_running):  # a run of the IOC has its configuration
            self._await_configs(run)
        self.run_metadata.put(json.dumps(run.metadata()))
        self.telescopes.put(telescopes_text(telescopes_in(run)))

    def _await_configs(self, run: RunDirectory) -> None:
        """Wait until a run has frames: its configuration is copied before they are written."""
        deadline = time.monotonic() + CONFIGS_S
        while not (run.has_frames() or run.markers() or time.monotonic() > deadline):
            pause(0.5)

    def _check_mounted(self, run: str, data_dir: Path) -> None:
        """Raise if the files of a run are not on this machine: its configuration is among them."""
        if run and not run_of(data_dir, run).directories:
            raise HardwareError(
                f"{self.name}: the files of {run} are not below {data_dir} on this machine; mount "
                "the data directory of the IOC there"
            )

    def _measure_rate(self, seconds: float) -> None:
        path = self._events_path
        if path is None:
            raise HardwareError(f"{self.name}: no run is tracked, so there are no events to count")
        begin = time.time_ns()
        end = begin + round(seconds * 1e9)
        # A movie frame later than `end` shows that the source has passed it, also without triggers.
        self._await_frames(end)
        pause(PASS_S)
        with open_reader(HDF5, path, EVENTS[0].dataset) as reader:
            times = reader.read(EVENTS[1].dataset)
        count = int(((times >= begin) & (times < end)).sum())
        self.trigger_rate.put(count / seconds)

    def _await_frames(self, until_ns: float) -> None:
        """Wait for a frame of a time or later, as long as newer ones come: they may be late.

        A simulation on a busy computer lags behind, but not by `LAG_S`.

        Raises
        ------
        HardwareError
            If no newer frame comes for `SETTLE_S`, or they are later than `LAG_S`.
        """
        newest, since = -math.inf, time.monotonic()
        while (seen := self._newest_ns()) < until_ns:
            if time.time_ns() - until_ns > LAG_S * 1e9:
                late = (until_ns - seen) / 1e9
                raise HardwareError(
                    f"{self.name}: after {LAG_S:g} s the newest frame is still {late:.0f} s older "
                    "than the awaited one; do the clocks of the computers agree?"
                )
            if seen > newest:
                newest, since = seen, time.monotonic()
            elif time.monotonic() - since > SETTLE_S:
                raise HardwareError(
                    f"{self.name}: no frames for {SETTLE_S:g} s; is a run being taken?"
                )
            pause(0.1)

    def _newest_ns(self) -> float:
        """Return the time of the newest frame that the IOC shows, ns."""
        return max(float(self._read_signal(signal)) * 1e9 for signal in self._newest)

    def _wait(self, limit_s: float) -> None:
        ended, deadline = self._ended, time.monotonic() + limit_s
        while not (self.is_lost or ended.is_set() or time.monotonic() > deadline):
            self._check_ioc(ended)
            if int(self._read_signal(self.run_state)) == ENDED:
                return
            ended.wait(0.1)

    def _simulate(self, running: bool) -> None:
        self.connect()
        self._put(self.sim_running, int(running))

    def _check_no_run(self) -> None:
        self.connect()
        if self._read_now(self.sim_running):
            raise HardwareError(
                f"{self.name}: the IOC takes a run; wait for its end, or stop it with "
                f"{self.name}.run_simulated(False)"
            )

    def _check_run(self) -> None:
        if not self.is_lost and (error := self._read_now(self.sim_error)):
            raise HardwareError(f"{self.name}: the run has ended: {error}")

    def _end(self) -> None:
        self._ended.set()
        if not self.is_lost:
            self._put(self.plugin.capture, 0)
            if error := self._read_now(self.plugin.write_message):
                logger.warning("%s: not all frames are registered: %s", self.name, error)
            self._put(self.track_name, NEWEST)
        self._is_tracking = False

    def _message_signals(self) -> tuple[EpicsSignalRO, ...]:
        return self.plugin.write_message, self.message


class _IndexStream(FileStream):
    """The rows of one index."""

    device: Panoseti

    def get_index(self) -> int:
        """Return the number of rows that are visible in the file."""
        self.rows = self.device.rows(self.name.removeprefix(f"{self.device.name}_"))
        return self.rows

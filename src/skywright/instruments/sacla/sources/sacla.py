"""SACLA's online data as a source: images from the ring buffers, values from the database."""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from skywright.acquire.counters import Counters, sum_counts
from skywright.acquire.source import PolledSource, Report
from skywright.errors import ConfigError, HardwareError, message_of
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shots import EQUIPMENT, MOTOR
from skywright.instruments.sacla.sources import STOP_LIMIT_S
from skywright.instruments.sacla.sources.online_api import OnlineApi, TimedModule, import_api
from skywright.instruments.sacla.sources.online_begin import (
    choose_detectors,
    find_steps,
    make_grid,
    make_info,
)
from skywright.instruments.sacla.sources.online_database import (
    PAUSED,
    RUNNING,
    DatabaseThread,
)
from skywright.instruments.sacla.sources.online_images import (
    AHEAD_TAGS_MAX,
    ANSWER_S,
    ImageThread,
)
from skywright.instruments.sacla.sources.online_run import OnlineRun, OnlineRuns
from skywright.instruments.sacla.sources.online_settings import OnlineSettings
from skywright.instruments.sacla.sources.troubles import Troubles
from skywright.waiting import pause

CONNECT_RETRY_S = 0.2
JOIN_S = 0.2
FOLLOW_TAGS = 600
"""A run that follows is read from its start if it began at most this number of tags ago, 10 s.
Of a run that is found later, the shots before are counted as gone."""


class SaclaSource(PolledSource[Record[Any]]):
    """Yields the records of running shots, run after run.

    A thread reads each detector and one reads the database, so that a detector that hangs does not
    stop the others: when its run has ended, it is not awaited for more than ``settings.silent_s``.
    A run that follows is read from its first shot; shots that are no longer there are counted.
    `info` is that of the run whose records are delivered: a new object, before the first record of
    a new run, and all records of a run come before those of the next. Before the first record, all
    of `info` is valid except the first tag: `start` finds that. A detector that comes late delivers
    its records at once, and is in `info` from the next run on; one that is away when a run begins
    is not in that run's `info`.

    Parameters
    ----------
    settings
        Beamline, ids, waiting times.
    shots
        End after this number of shots; None: read all.
    follow
        Go on with the next run; else end with the run.

    Raises
    ------
    ConfigError
        If ``dbpy`` and ``olpy`` are not installed here, or the settings do not fit the run.
    HardwareError
        If no run is under way, the database or no detector answers, or the run has no images; each
        of the three is awaited for ``settings.connect_s``.
    """

    def __init__(
        self, settings: OnlineSettings, shots: int | None = None, follow: bool = True
    ) -> None:
        super().__init__("sacla")
        self.stop_limit_s = STOP_LIMIT_S
        # `open` may wait for a run, for its detectors and for its images
        self.start_limit_s += 3 * (settings.connect_s + ANSWER_S)
        self.settings = settings
        self._shots, self._follow = shots, follow and shots is None
        self._current: OnlineRun
        modules = import_api()
        self._dbpy = TimedModule(modules.dbpy)
        self._api = OnlineApi(self._dbpy, modules.olpy)
        self._lost = {role: Counters() for role in (*EQUIPMENT, MOTOR)}
        self._notes: list[tuple[str, bool]] = []
        """Messages before the start, and whether they are alarms."""
        self._send_report: Report | None = None
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._begin()

    @property
    def info(self) -> RunInfo:
        """The run whose records are delivered."""
        return self._current.info

    @property
    def lost(self) -> Mapping[str, int]:
        """Images and values that did not come through, by cause, since the object was made."""
        return sum_counts(*self.lost_by_channel.values())

    @property
    def lost_by_channel(self) -> Mapping[str, Mapping[str, int]]:
        """As `lost`, by detector id and role of the point detector."""
        return {channel: counters.as_dict() for channel, counters in self._lost.items()}

    @property
    def trouble(self) -> str:
        """What does not work now; empty if everything does."""
        return str(self._troubles)

    def start(self, deliver: Callable[[Record[Any]], None], report: Report) -> None:
        """Begin to deliver records."""
        self._send_report = report
        for note in self._notes:
            report(*note)
        self._notes = []
        super().start(deliver, report)

    def open(self) -> None:
        """Start the threads; after a stop, go on with the newest shots."""
        if self._ended.is_set():
            self._begin()
        else:  # the ring buffer has moved on since the run was found
            self._read_from_now(self._current.info.run)
        database = DatabaseThread(
            self._api,
            self.settings,
            self._runs,
            partial(self._next_run, follows=True) if self._follow else None,
            self._lost,
            self._troubles,
            self._ended,
        )
        self._threads = [database, *self._images.values()]
        for thread in self._threads:
            thread.start()

    def next(self, timeout_s: float) -> Record[Any] | None:
        """Return the next record."""
        run = self._current
        for thread in self._threads:
            if not thread.is_alive() and not self._ended.is_set():
                raise StopIteration(f"the thread {thread.name} has ended")
        if time.monotonic() - self._dbpy.called_s > self.settings.silent_s:
            self._troubles.set("database", f"has not answered for {self.settings.silent_s:g} s")
        for name, detector in self._images.items():
            if detector.hangs and run.awaits(name):
                self._troubles.set(name, f"has not answered for {self.settings.silent_s:g} s")
                if run.has_ended:
                    run.finish(name)
        if not run.is_finished:
            return run.take(timeout_s)
        following = self._runs.after(run, timeout_s if self._follow else 0.0)
        if not self._follow:
            is_cut = self._shots is not None and run.last == run.info.grid.last
            why = f"all {self._shots} requested shots are read" if is_cut else "no more shots"
            raise StopIteration(f"run {run.info.run}: {why}")
        if following is not None:
            self._current = following
            self._report(f"run {following.info.run} follows run {run.info.run}", False)
        return None

    def halt(self) -> None:
        """End the threads."""
        self._ended.set()
        deadline = time.monotonic() + JOIN_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(deadline - time.monotonic(), 0.0))

    def close(self) -> None:
        """Stop for good."""
        super().close()
        self.halt()

    def _report(self, message: str, alarm: bool = True, /) -> None:
        if self._send_report is None:
            self._notes.append((message, alarm))
        else:
            self._send_report(message, alarm)

    # ---- the beginning of a run

    def _begin(self) -> None:
        """Find the run under way and its detectors."""
        self._ended = threading.Event()
        self._troubles = Troubles(self._report)
        self._runs = OnlineRuns()
        number, known = self._await(self._running, "no run is under way")
        detectors = choose_detectors(self.settings, known)
        self._images = {
            name: ImageThread(
                self._api,
                name,
                self.settings,
                self._runs,
                self._lost.setdefault(name, Counters()),
                self._troubles,
                self._ended,
            )
            for name in detectors
        }
        absent: dict[str, str] = {}
        has = f"; the run has {', '.join(known) or 'none'}"
        unknown = set(detectors).difference(known)
        self._await(lambda: self._connected(absent), f"no detector answers{has if unknown else ''}")
        for name, why in absent.items():
            self._report(f"{name}: {why}{has if name in unknown else ''}; trying again")
        self._read_from_now(number)

    def _read_from_now(self, number: int) -> None:
        """Begin with the newest shots of a run, or with its first if it has just begun."""
        self._current = self._await(lambda: self._next_run(number), "the run has no images")
        self._runs.begin(self._current)

    def _await(self, question: Callable[[], Any], trouble: str) -> Any:
        """Ask until there is an answer."""
        where = f"source sacla, beamline {self.settings.beamline}"
        deadline = time.monotonic() + self.settings.connect_s
        answers: SimpleQueue[Any] = SimpleQueue()
        why = ""

        def ask() -> None:
            try:
                answers.put(question())
            except Exception as error:  # the facility's modules have one exception for everything
                answers.put(error)

        while True:
            threading.Thread(target=ask, daemon=True).start()  # a call may never return
            try:
                answer = answers.get(timeout=max(deadline - time.monotonic(), 0.0) + ANSWER_S)
            except Empty:
                limit = f"{self.settings.connect_s:g} s"
                raise HardwareError(f"{where}: the facility has not answered for {limit}") from None
            if isinstance(answer, ConfigError):
                raise answer
            if isinstance(answer, Exception):
                why = f" ({answer})"
            elif answer:
                return answer
            if time.monotonic() > deadline:
                raise HardwareError(f"{where}: {trouble}{why}")
            pause(CONNECT_RETRY_S)

    def _running(self) -> tuple[int, tuple[str, ...]] | None:
        """Return the number of the run under way and its detectors; None if there is none."""
        beamline, dbpy = self.settings.beamline, self._api.dbpy
        number = int(dbpy.read_runnumber_newest(beamline))
        if dbpy.read_runstatus(beamline, number) not in (PAUSED, RUNNING):
            return None
        return number, tuple(dbpy.read_detidlist(beamline, number))

    def _connected(self, absent: dict[str, str], *names: str) -> bool:
        """Connect to detectors (all if none are named) at once; say in `absent` which are away.

        When one has answered, the others are not awaited for more than `ANSWER_S`.

        Raises
        ------
        HardwareError
            If none answers within ``settings.connect_s``.
        """
        names = names or tuple(self._images)
        answers: SimpleQueue[tuple[str, str]] = SimpleQueue()

        def connect(name: str) -> None:
            try:
                self._images[name].connect()
            except Exception as error:  # one exception for everything
                answers.put((name, message_of(error)))
            else:
                answers.put((name, ""))

        for name in names:
            threading.Thread(target=connect, args=(name,), daemon=True).start()
        absent.clear()
        absent.update(dict.fromkeys(names, "does not answer"))
        deadline = time.monotonic() + self.settings.connect_s
        for _ in names:
            try:
                name, why = answers.get(timeout=max(deadline - time.monotonic(), 0.0))
            except Empty:
                break
            absent[name] = why
            if not why:
                del absent[name]
                deadline = min(deadline, time.monotonic() + ANSWER_S)
        if len(absent) == len(names):
            raise HardwareError("; ".join(f"{name}: {why}" for name, why in absent.items()))
        return True

    def _next_run(self, number: int, follows: bool = False) -> OnlineRun | None:
        """Make the run of a number; None while too little is known of it.

        If it follows another one, all its shots are read, or counted.
        """
        settings, dbpy = self.settings, self._api.dbpy
        listed = dbpy.read_detidlist(settings.beamline, number)
        there = {
            name: thread
            for name, thread in self._images.items()
            if thread.facts is not None
            and (thread.is_connected or (name in listed and not thread.hangs))
        }
        if not there:
            return None
        start = int(dbpy.read_start_tagnumber(settings.beamline, number)[1])
        steps = self._find_steps(number, start, there)
        if steps is None:
            return None
        facts = {name: thread.facts for name, thread in there.items() if thread.facts is not None}
        catch_up_tags = FOLLOW_TAGS if follows else settings.catch_up_tags
        grid = make_grid(start, catch_up_tags, *steps, self._shots)
        info = make_info(self._api, settings, number, grid, facts)
        for name in self._images:
            if name.startswith("MPCCD"):  # a camera has no gain
                lacks_gain = name in facts and "mp_absgain" not in facts[name]
                why = "no mp_absgain: gain 1 and no threshold are used" if lacks_gain else ""
                self._troubles.set(f"gain of {name}", why)
        if follows:
            self._report_beginning(info, (grid.first - start) // grid.step)
        capacity = int(settings.buffer_mb * 1e6 / len(self._images))
        channels = (*self._images, *EQUIPMENT, *info.more_values)
        return OnlineRun(info, channels, grid.first - 1, capacity, self._ended)

    def _find_steps(
        self, number: int, start: int, there: Mapping[str, ImageThread]
    ) -> tuple[int, int] | None:
        """Find a tag of the run with images, and the tag step; None while too little is known.

        When it returns tags, each detector has answered what it is in the run, or does not answer.
        If the settings give the tag step, the newest images are looked at, else the run's lists of
        tags.
        """
        given, steps = self.settings.tag_step, None
        if given is None:
            steps = find_steps(self._api, self.settings, number, list(there))
            if steps is None or steps[0] < start:
                return None
        awaited = [thread.ask(number) for thread in there.values()]  # all at the same time
        if any(awaited):
            return None
        return steps if given is None else self._newest_step(number, start, given, there)

    def _newest_step(
        self, number: int, start: int, step: int, there: Mapping[str, ImageThread]
    ) -> tuple[int, int] | None:
        """Return a tag with images, and the tag step; None while too little is known.

        The tag is that of the newest image of the first detector. Of detectors with different rates
        the first one says which tags are shots.
        """
        reference = self.settings.reference.replace("{bl}", str(self.settings.beamline))
        reached = int(self._api.dbpy.read_tagnumber_newest(reference)[1])
        tags = [thread.newest_tag for thread in there.values()]
        fresh = [tag for tag in tags if start <= tag <= reached + AHEAD_TAGS_MAX]
        is_whole = len(fresh) == len(tags) or reached - start >= self.settings.wait_tags
        newest = fresh[0] if fresh and is_whole else -1
        is_reading = any(thread.is_alive() for thread in there.values())
        if max(tags) < 0:  # no detector says it
            listed = find_steps(self._api, self.settings, number, list(there))
            newest = -1 if listed is None else listed[0]
        if newest >= start:
            if not is_reading:  # the detectors have been asked some time ago
                newest += max(reached - newest, 0) // step * step
            return newest, step
        if is_reading:
            for thread in there.values():
                thread.ask_tag_again()
        else:
            self._connected({}, *there)
        return None

    def _report_beginning(self, info: RunInfo, passed: int) -> None:
        """Count the shots before the first one that is read; report what is not known."""
        if passed:
            self._report(f"run {info.run}: its first {passed} shots are gone")
            for name in self._images:
                self._lost[name].add("gone", passed)
        for name in info.tiles:
            if self._images[name].answered != info.run:
                gain = f"run {info.run} uses its gain of the run before"
                self._report(f"{name}: does not answer; {gain}")

"""The thread that asks the database: how far the accelerator is, runs, values of point detectors.

All calls of ``dbpy`` come from here, one at a time.
"""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from skywright.acquire.counters import Counters
from skywright.instruments.sacla.sources.online_api import OnlineApi
from skywright.instruments.sacla.sources.online_images import AHEAD_TAGS_MAX
from skywright.instruments.sacla.sources.online_run import OnlineRun, OnlineRuns
from skywright.instruments.sacla.sources.online_settings import OnlineSettings
from skywright.instruments.sacla.sources.online_values import ValueReader
from skywright.instruments.sacla.sources.troubles import Troubles

PAUSED, RUNNING = 1, 2
"""Status of a run that is under way."""
END_S = 1.0
"""Longest time for which the last tag of a run that is over is asked for, s. Meanwhile the ring
buffers keep the first images of the next run: 100 tags are 1.7 s."""
TAGS_PER_S = 60


class DatabaseThread(threading.Thread):
    """Follows the accelerator and the runs, and reads the values of all point detectors.

    Parameters
    ----------
    api
        The facility's modules.
    settings
        Ids and waiting times.
    runs
        What is read; runs that begin are added.
    begin
        Makes the run of a number, or None while too little is known of it. None in place of the
        function: no other run is read.
    lost
        Values that did not come through, by cause, of each role; see `ValueReader`.
    troubles, stopping
        As for `ImageThread`.
    """

    def __init__(
        self,
        api: OnlineApi,
        settings: OnlineSettings,
        runs: OnlineRuns,
        begin: Callable[[int], OnlineRun | None] | None,
        lost: Mapping[str, Counters],
        troubles: Troubles,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name="sacla-database", daemon=True)
        self._api, self._settings, self._runs = api, settings, runs
        self._begin, self._lost, self._stopping = begin, lost, stopping
        self._ids: Mapping[str, str] = settings.equipment.of_beamline(settings.beamline)
        self._reference = settings.reference.replace("{bl}", str(settings.beamline))
        self._readers: dict[OnlineRun, list[ValueReader]] = {}
        self._report, self._set_trouble = troubles.report, troubles.set
        self._moved_s = time.monotonic()
        self._tags: tuple[int, int] | None = None  # newest high and low tag
        self._tags_s = time.monotonic()
        """When `_tags` was asked for."""
        self._far_tags: tuple[int, int] | None = None
        """The last tags if they were too far ahead of `_tags`."""
        self._after_end: dict[OnlineRun, tuple[int, int]] = {}  # where the next tags began
        self._over_s: float | None = None
        """Since when the latest run is over and its last tag is not known; None: it is not so."""

    def run(self) -> None:
        """Ask round after round until the end."""
        while not self._stopping.is_set():
            self._update_tags()
            self._update_runs()
            unfinished = self._runs.unfinished()
            self._readers = {run: self._readers_of(run) for run in unfinished}
            self._after_end = {run: at for run, at in self._after_end.items() if run in unfinished}
            for run in unfinished:
                for reader in self._readers[run]:
                    if run.awaits(reader.role):
                        reader.read()
            self._set_trouble("database", "")  # it answers, if late
            self._stopping.wait(self._settings.database_s)

    def _readers_of(self, run: OnlineRun) -> list[ValueReader]:
        if run in self._readers:
            return self._readers[run]
        return [
            ValueReader(
                self._api,
                role,
                equipment,
                run,
                self._settings.wait_tags,
                self._lost[role],
                partial(self._set_trouble, f"{role} ({equipment or 'no equipment'})"),
            )
            for role, equipment in self._ids.items()
        ]

    # ---- how far the accelerator is

    def _update_tags(self) -> None:
        now = time.monotonic()
        try:
            high, low = map(int, self._api.dbpy.read_tagnumber_newest(self._reference))
        except Exception as error:  # the facility's modules have one exception for everything
            self._set_trouble(f"reference ({self._reference})", str(error))
        else:
            self._set_trouble(f"reference ({self._reference})", "")
            if self._is_credible(high, low, now):
                if (high, low) != self._tags:
                    self._tags, self._moved_s = (high, low), now
                self._tags_s = now
                for run in self._runs.unfinished():
                    self._reach(run, high, low)
        for run in self._runs.unfinished():
            if run.has_ended and now - self._moved_s > self._settings.silent_s:
                run.give_up()

    def _is_credible(self, high: int, low: int, now: float) -> bool:
        """Return whether tags may be the newest ones.

        Those far ahead of the last ones are believed when a later tag has followed them. A single
        wrong one would let all images and values before it be given up.
        """
        latest = self._runs.latest
        before_high, before = self._tags or (latest.info.hightag, latest.newest)
        most = AHEAD_TAGS_MAX + 2 * TAGS_PER_S * (now - self._tags_s)
        far, self._far_tags = self._far_tags, None
        if high != before_high or low - before <= most:
            return True
        self._far_tags = high, low
        return far is not None and far[0] == high and 0 < low - far[1] <= most

    def _reach(self, run: OnlineRun, high: int, low: int) -> None:
        if run.info.hightag == high and low >= run.info.grid.first:
            run.reach(low)
        elif run.has_ended and run.last is not None:
            # Tags have begun anew: those since then say how long data have been awaited.
            origin = self._after_end.setdefault(run, (high, low))
            passed = low - origin[1] if origin[0] == high else self._settings.wait_tags
            run.reach(run.last + 1 + max(passed, 0))

    # ---- runs

    def _update_runs(self) -> None:
        run, beamline, dbpy = self._runs.latest, self._settings.beamline, self._api.dbpy
        reached = run.newest  # before the calls: if the run goes on, it has these tags
        try:
            newest = int(dbpy.read_runnumber_newest(beamline))
            if not run.has_ended:
                goes_on = newest == run.info.run and (
                    dbpy.read_runstatus(beamline, newest) in (PAUSED, RUNNING)
                )
                self._over_s = None if goes_on else self._over_s or time.monotonic()
                if not goes_on:
                    self._end(run)
            is_new = run.has_ended and newest != run.info.run and self._begin is not None
            if is_new and dbpy.read_runstatus(beamline, newest) in (PAUSED, RUNNING):
                self._start(run, newest)
        except Exception as error:
            self._set_trouble("runs", str(error))
        else:
            self._set_trouble("runs", "")
        # Also when the database does not answer: the rest goes on. The tags of a run that is over
        # may be of the next one.
        if not run.has_ended and self._over_s is None:
            run.confirm(reached)

    def _end(self, run: OnlineRun) -> None:
        number = run.info.run
        try:
            dbpy, beamline = self._api.dbpy, self._settings.beamline
            high, last = map(int, dbpy.read_end_tagnumber(beamline, number))
            if high != run.info.hightag:
                raise ValueError(f"its high tag is {high}, expected {run.info.hightag}")
        except Exception as error:
            if self._over_s is not None and time.monotonic() - self._over_s < END_S:
                return  # it is asked for again in the next round
            last = int(max(run.newest, run.info.grid.first))
            self._report(f"run {number}: its last tag is not known ({error}); {last} is taken")
        run.end(last)
        self._over_s = None

    def _start(self, before: OnlineRun, number: int) -> None:
        assert self._begin is not None
        run = self._begin(number)
        if run is None:
            return
        if number != before.info.run + 1:
            self._report(f"runs {before.info.run + 1} to {number - 1} were not read")
        self._runs.add(run)

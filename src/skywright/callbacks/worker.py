"""The process that runs an analysis live: documents in on stdin, progress out on stdout.

``python -m skywright.callbacks.worker NAME --journal DIR --assets DIR`` reads ``[name, document]``
JSON lines, follows the files they tell of, and writes one derived run for each stream of a raw run
that has the wanted data keys. It survives every failure of the analysis; the failure is in the
derived run.
"""

import argparse
import json
import logging
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from skywright.analysis import Analysis, Batch
from skywright.analysis.named import make_analysis, make_second_stage
from skywright.analysis.second import SecondStage
from skywright.callbacks.derived import DerivedRun, Emit
from skywright.callbacks.follow import RawRun, RawStream, RunIds, Wanted
from skywright.callbacks.journal import Journal, encode_line
from skywright.callbacks.pace import DECISION_LIMIT, Pace, choose
from skywright.callbacks.second import FollowedSecond
from skywright.errors import DataError, SkywrightError
from skywright.files.frames import FrameReader, draw_pictures
from skywright.processes.process import announce_ready, log_to_stderr

UNFLUSHED_POLL_S = 0.005
"""Wait for frames that are announced and not yet whole in their file."""
END_LIMIT_S = 3.0
"""Time for frames that are left when the session is gone."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """When the worker stops to catch up.

    Parameters
    ----------
    max_behind_s
        Work that may wait, in seconds of the analysis, above what had gathered when the run was
        first seen. Beyond that frames are skipped, evenly, and counted.
    catch_up_s
        Time after the stop document for the frames that are left.
    """

    max_behind_s: float = 10.0
    catch_up_s: float = 60.0


class FollowedStream:
    """One stream of a raw run and the derived run made of it."""

    def __init__(
        self,
        raw: RawStream,
        make: Callable[[Mapping[str, Any]], Analysis[Any]],
        emit: Emit,
        assets: Path,
        limits: Limits,
        second: Sequence[FollowedSecond] = (),
    ) -> None:
        self.raw = raw
        self.second = second
        self.position = 0
        self.derived: DerivedRun | None = None
        self.over = ""
        """Exit status, once the derived run is closed."""
        self.reason = ""
        self._make = make
        self._emit = emit
        self._assets = assets
        self._limits = limits
        self._backlog: int | None = None
        self._deadline: float | None = None
        self._pace = Pace()
        self._busy_since: float | None = None
        self._reader: FrameReader | None = None
        self._scalars: dict[str, Any] = {}
        self._guarded(self._begin)

    def raw_stopped(self) -> None:
        """Take in that the raw run has ended: what is left must be done soon."""
        self._deadline = time.monotonic() + self._limits.catch_up_s

    def step(self) -> bool:
        """Analyze one batch, if there is one, and answer; True if it did something."""
        before = self.position
        is_new = not self.over and self.derived is not None
        if is_new:
            self._guarded(self._analyze)
        answers = [each.answer(self._reached()) for each in self.second]
        if is_new and self.raw.run.stop is not None and not self.over and self._is_done():
            self._guarded(self._finish)
        return self.position > before or (is_new and bool(self.over)) or any(answers)

    def _reached(self) -> float:
        """Return how many frames need not be waited for any more."""
        return math.inf if self.over else self.position

    def interrupt(self, reason: str) -> None:
        """End the derived run of a raw run that will not end."""
        if self.derived is not None and not self.over:
            self._guarded(lambda: self._close("abort", f"interrupted: {reason}"))

    def due_s(self) -> float | None:
        """Write and emit what is due; return in how many seconds to look again, None if never."""
        table, derived = self.raw.table, self.derived
        if self.over or table is None or derived is None:
            return None
        due: list[float | None] = []
        self._guarded(lambda: due.append(derived.tick()))
        times = [seconds for seconds in due if seconds is not None]
        if table.announced() > self.position:  # announced, and not whole in the file yet
            times.append(UNFLUSHED_POLL_S)
        return min(times, default=None)

    @property
    def ended(self) -> bool:
        """Nothing is left to do for this stream."""
        return self.raw.run.stop is not None and bool(self.over)

    def progress(self) -> dict[str, Any]:
        """Return the state of the analysis, for the session."""
        derived = self.derived
        return {
            "raw_uid": self.raw.run.uid,
            "stream": self.raw.name,
            "derived_uid": derived.uid if derived else None,
            "reached": self.position,
            "rows": derived.rows if derived else 0,
            "columns": str(derived.columns_path) if derived else "",
            "result": self._scalars,
            "exit_status": self.over,
            "reason": self.reason,
            "second": {each.name: each.facts() for each in self.second},
        }

    def _guarded(self, action: Any) -> None:
        """Run `action`; whatever it raises ends the derived run, and only that."""
        try:
            action()
        except Exception as error:  # an analysis may raise anything, and the worker lives on
            log.exception(
                "the analysis failed on run %s, stream %s", self.raw.run.uid, self.raw.name
            )
            self.over, self.reason = "fail", f"{type(error).__name__}: {error}"
            self._finish_second()
            try:
                if self.derived is not None:
                    self.derived.close("fail", self.reason)
            except Exception:  # e.g. the disk is full: the journal's lock tells the ingester
                log.exception("the derived run of %s cannot be closed", self.raw.run.uid)
            self._release()

    def _begin(self) -> None:
        raw = self.raw
        trouble = raw.trouble
        try:
            analysis = self._make(raw.configuration)
        except SkywrightError as error:  # the derived run, of the analysis as it is, says so
            analysis, trouble = self._make({}), str(error)
        self._analysis = analysis
        self.derived = DerivedRun(
            analysis, raw.run.start, self._emit, self._assets, raw.keys, stream=raw.name
        )
        if trouble:
            raise DataError(trouble)
        assert raw.table is not None
        self._reader = FrameReader(raw.table)

    def _analyze(self) -> None:
        raw, derived, reader = self.raw, self.derived, self._reader
        if raw.trouble:
            raise DataError(raw.trouble)
        assert raw.table is not None
        assert derived is not None
        assert reader is not None
        stop = raw.table.complete(self.position)
        if stop <= self.position:
            return
        if self._backlog is None:
            self._backlog = stop - self.position
        stop = self._readable(stop)
        if stop <= self.position:
            return
        affordable = self._affordable() if derived.analysis.skips else math.inf
        chosen = choose(self.position, stop, affordable)[: self._pace.batch_frames]
        begun = self._busy_since or time.monotonic()
        batch = reader.pick(chosen)
        derived.missing += len(chosen) - len(batch)
        derived.dropped += chosen[-1] + 1 - self.position - len(chosen)
        rows = derived.add(batch)
        for each in self.second:
            each.add(Batch(batch.identities, batch.times, rows))
        self.position = chosen[-1] + 1
        self._scalars = derived.scalars()
        raw.table.forget(self.position)
        now = time.monotonic()
        self._pace.took(len(batch), now - begun, batch.nbytes)
        # Until the next batch documents are taken in and rows are written: that time counts too.
        self._busy_since = now if self.position < stop else None

    def _affordable(self) -> float:
        """Return how many of the frames that wait there is time for."""
        limits = self._limits
        if self._deadline is not None:
            return self._pace.affordable(self._deadline - time.monotonic())
        if isinstance(limit_s := self.raw.run.start.get(DECISION_LIMIT), int | float):
            return self._pace.affordable(limit_s)
        return max(self._pace.affordable(limits.max_behind_s), self._backlog or 1)

    def _readable(self, stop: int) -> int:
        assert self._reader is not None
        try:
            return self._reader.readable(self.position, stop)
        except DataError as error:  # the file may come; when the run has stopped it is too late
            if self._is_late():
                raise
            log.info("run %s, stream %s: %s", self.raw.run.uid, self.raw.name, error)
            return self.position

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _is_done(self) -> bool:
        table = self.raw.table
        assert table is not None
        return table.complete(self.position) <= self.position or self._is_late()

    def _finish(self) -> None:
        derived, table, reader = self.derived, self.raw.table, self._reader
        assert derived is not None
        assert table is not None
        assert reader is not None
        left = table.announced() - self.position
        readable = reader.readable(self.position, table.complete(self.position)) - self.position
        derived.dropped += readable  # whole, and no time for them
        derived.missing += left - readable
        self.position = table.announced()
        self._close("success", "")

    def _close(self, exit_status: Literal["success", "abort"], reason: str) -> None:
        assert self.derived is not None
        pictures: Mapping[str, bytes] = {}
        if exit_status == "success":
            assert self._reader is not None
            pictures = draw_pictures(self._analysis, self._reader, self.position)
            self._finish_second()  # before this one: a worker that died has done both or this one
        self.derived.close(exit_status, reason, pictures)
        self._scalars = self.derived.scalars()
        self.over, self.reason = exit_status, reason
        self._release()

    def _finish_second(self) -> None:
        inputs = {self._analysis.name: self.derived.uid} if self.derived is not None else {}
        for each in self.second:
            each.finish(self.raw.name, inputs)

    def _release(self) -> None:
        if self._reader is not None:
            self._reader.close()


class Worker:
    """Reads documents, analyzes, reports; the loop of this process.

    Parameters
    ----------
    name, parameters, keys
        The analysis, its parameters, and full data keys of inputs that need them.
    emit
        Takes the derived documents.
    assets
        Root directory of assets.
    limits
        When to stop to catch up.
    second
        Second-stage analyses by name.
    """

    def __init__(
        self,
        name: str,
        parameters: dict[str, Any],
        keys: Mapping[str, str],
        emit: Emit,
        assets: Path,
        limits: Limits,
        second: Mapping[str, SecondStage],
    ) -> None:
        self._make = partial(make_analysis, name, parameters)
        kind = self._make()
        kind.warm_up()
        for stage in second.values():
            stage.warm_up()
        self._stages = second
        self._wanted = Wanted.of(kind, keys)
        self._emit, self._assets, self._limits = emit, assets, limits
        self._ids = RunIds()
        self._runs: dict[str, RawRun] = {}
        self._second: dict[str, list[FollowedSecond]] = {}
        """By uid of the raw run."""
        self._streams: dict[tuple[str, str], FollowedStream] = {}
        """By uid of the raw run and name of the stream."""
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.over = threading.Event()

    def read_from(self, fd: int) -> None:
        """Queue the whole lines of a pipe, at once, so that it never fills."""
        rest = b""
        while piece := os.read(fd, 1 << 16):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def stop(self) -> None:
        """End as if stdin had ended."""
        self._lines.put(None)

    def run(self) -> None:
        """Work until stdin ends."""
        goes_on = True
        while goes_on:
            worked = [self._step(each) for each in list(self._streams.values())]
            due = [each.due_s() for each in self._streams.values()]
            timeout = min((seconds for seconds in due if seconds is not None), default=None)
            goes_on = self._listen(timeout, block=not any(worked))
        deadline = time.monotonic() + END_LIMIT_S
        for each in list(self._streams.values()):
            while time.monotonic() < deadline and self._step(each):
                pass
            each.interrupt("the session ended in the middle of the run")

    def _listen(self, timeout: float | None, *, block: bool) -> bool:
        """Take in all lines that have come, or wait for one; return False when stdin has ended."""
        with suppress(queue.Empty):
            while (line := self._lines.get(block, timeout)) is not None:
                self._document(*json.loads(line))
                block = False
            return False
        return True

    def _document(self, name: str, doc: dict[str, Any]) -> None:
        uid = str(self._ids.of(name, doc))
        if name == "start" and doc.get("purpose") != "analysis":
            self._runs[uid] = RawRun(doc, self._wanted)
            self._second[uid] = [
                FollowedSecond(each, stage.follow(doc), doc, self._emit, self._assets)
                for each, stage in self._stages.items()
            ]
        if name == "ask":
            for second in self._second.get(doc["raw_uid"], ()):
                second.ask(doc["number"], doc["frames"])
            return
        run = self._runs.get(uid)
        if run is None:
            return
        run(name, doc)
        for second in self._second[uid]:
            second.take(name, doc)
        if name == "descriptor":
            self._follow_new(run)
        elif name == "stop":
            for followed in self._of(uid):
                followed.raw_stopped()
                self._report_end(followed)
            self._forget_if_over(run)

    def _of(self, uid: str) -> list[FollowedStream]:
        return [each for (owner, _), each in self._streams.items() if owner == uid]

    def _follow_new(self, run: RawRun) -> None:
        for name, raw in run.streams.items():
            if (run.uid, name) not in self._streams:
                second = self._second[run.uid] if raw is next(iter(run.streams.values())) else []
                followed = FollowedStream(
                    raw, self._make, self._emit, self._assets, self._limits, second
                )
                self._streams[run.uid, name] = followed
                say("progress", followed.progress())  # if we die, the session knows of it

    def _step(self, followed: FollowedStream) -> bool:
        worked = followed.step()
        if worked:
            say("progress", followed.progress())
        self._report_end(followed)
        return worked

    def _report_end(self, followed: FollowedStream) -> None:
        run = followed.raw.run
        if followed.ended and self._streams.pop((run.uid, followed.raw.name), None) is not None:
            say("done", followed.progress())
            self._forget_if_over(run)

    def _forget_if_over(self, run: RawRun) -> None:
        if run.uid in self._runs and run.stop is not None and not self._of(run.uid):
            del self._runs[run.uid], self._second[run.uid]
            say("over", {"raw_uid": run.uid})


def say(what: str, facts: Mapping[str, Any]) -> None:
    """Write one line to the session; when it is gone, stdin tells."""
    with suppress(BrokenPipeError):
        sys.stdout.buffer.write(encode_line(what, facts))
        sys.stdout.buffer.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run the worker; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m skywright.callbacks.worker")
    parser.add_argument("name", help="analysis: a registered name or module:Class")
    parser.add_argument("--parameters", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--keys", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--journal", type=Path, required=True, metavar="DIR")
    parser.add_argument("--assets", type=Path, required=True, metavar="DIR")
    parser.add_argument("--second", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--max-behind", type=float, default=Limits.max_behind_s, metavar="SECONDS")
    parser.add_argument("--catch-up", type=float, default=Limits.catch_up_s, metavar="SECONDS")
    options = parser.parse_args(arguments)
    log_to_stderr()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a session pauses the plan, not us
    journal = Journal(options.journal)
    limits = Limits(options.max_behind, options.catch_up)
    try:
        second = {each: make_second_stage(each, more) for each, more in options.second.items()}
        worker = Worker(
            options.name, options.parameters, options.keys, journal, options.assets, limits, second
        )
    except SkywrightError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    reader = threading.Thread(target=worker.read_from, args=(sys.stdin.fileno(),), daemon=True)
    reader.start()
    announce_ready(analysis=options.name)
    worker.run()
    journal.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the worker process of a live analysis: sends documents, reads reports, restarts it.

The lines between the two processes are JSON. To the worker: ``[name, document]``, or a command
``[name, arguments]``:

- ``request`` (raw_uid, number, frames): compute the results of the second stage over the first
  `frames` frames, and those analyzed meanwhile; the time limit of a decision on these frames starts
  (`StreamAnalysis.start_decision`);
- ``abandon`` (raw_uid, reason): end the derived runs of a raw run;
- ``done_streams`` (raw_uid, names): streams that an earlier worker has done; before the documents.

From the worker: ``[kind, facts]``:

- ``ready`` (analysis): once, when it can analyze frames;
- ``progress`` (`StreamAnalysis.take_progress`): at the start of a stream, after each batch, after
  an answer to a request, and every `worker.BEAT_S` while it waits for frames or pictures;
- ``stream_done`` (the same): at the end of a stream;
- ``run_done`` (raw_uid): when all streams of a run have ended.
"""

import json
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skywright.callbacks.journal import encode_line, journal_path
from skywright.callbacks.raw_run import Document, RawRun
from skywright.processes.child import PipedProcess, start_module

QUEUE_DOCUMENTS = 20_000
"""Maximum length of the queue for documents; a document beyond it is refused."""
START_LIMIT_S = 300.0
"""Timeout for the start of a worker, s. The first start after an installation compiles."""
PIPE_LIMIT_S = 10.0
"""Timeout for the worker to read its pipe, s; a worker that exceeds it is killed as frozen. A
worker that starts has `START_LIMIT_S`."""
LAST_LINES_S = 1.0
"""Time to read the last lines of a worker that has died, s."""
END_LIMIT_S = 10.0
"""Timeout for the worker to end after its stdin is closed, s."""
PARAMETERS = "ANALYSIS_PARAMETERS"
"""Environment variable of a worker: the parameters of its analysis, JSON."""
SECOND_STAGES = "ANALYSIS_SECOND_STAGES"
"""Environment variable of a worker: the parameters of its second-stage analyses by name, JSON."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerLimits:
    """Limits of a worker that dies or stalls.

    Parameters
    ----------
    restarts
        Maximum number of restarts of the worker in one run; after the next death the run is not
        analyzed further.
    stall_s
        Timeout, s: a worker that has frames to wait for or to analyze, or a run to end, and reports
        nothing for `stall_s` is killed. A worker that waits reports every `worker.BEAT_S`. One that
        starts has `START_LIMIT_S` if that is longer.
    """

    restarts: int = 3
    stall_s: float = 120.0


class _StreamReports:
    """What the worker has reported of one stream of a raw run."""

    def __init__(self) -> None:
        self.last_report = time.monotonic()
        self.reached = 0
        self.derived_uid: str | None = None
        self.error = ""
        self.done = False


class _SentRun:
    """A raw run as the session knows it, and the documents that a new worker would need."""

    def __init__(self, raw: RawRun) -> None:
        self.raw = raw
        self.deaths = 0
        self.abandoned = ""
        """Why the session sends no more documents of this run; "" if it does."""
        self._streams: dict[str, _StreamReports] = {}
        self._sent: list[tuple[str, Document]] = []
        self._datums: dict[str, int] = {}
        """Index in `_sent` of the last stream datum, by stream resource."""
        self._request: Document | None = None

    @property
    def streams(self) -> dict[str, _StreamReports]:
        """The streams that have the required data keys, by name."""
        for name in list(self.raw.streams):  # the RunEngine's thread adds to them
            self._streams.setdefault(name, _StreamReports())
        return self._streams

    @property
    def has_work(self) -> bool:
        """Whether the kept documents describe a stream to analyze."""
        sent = {doc["name"] for name, doc in self._sent if name == "descriptor"}
        return not sent.isdisjoint(self.raw.streams)

    @property
    def open_streams(self) -> dict[str, _StreamReports]:
        """Streams that are not done, by name."""
        return {name: each for name, each in self.streams.items() if not each.done}

    def remember(self, name: str, doc: Document) -> None:
        """Keep a document for a new worker.

        A stream datum that continues the last one of its resource, in the same stream, is joined
        to it. The last request for a result (``request``) is kept; earlier ones are dropped.
        """
        if name == "request":
            self._request = doc
            return
        if name == "stream_datum":
            uid = doc["stream_resource"]
            index = self._datums.get(uid)
            if index is not None and _continues(before := self._sent[index][1], doc):
                ranges = {
                    each: {"start": before[each]["start"], "stop": doc[each]["stop"]}
                    for each in ("indices", "seq_nums")
                }
                self._sent[index] = (name, {**before, **ranges})
                return
            self._datums[uid] = len(self._sent)
        self._sent.append((name, doc))

    @property
    def documents(self) -> list[tuple[str, Document]]:
        """What a new worker needs: the names of done streams, the documents, the last request.

        The new worker does not analyze the done streams again, but it must know of them:
        second-stage analyses work on the first usable stream, done or not.
        """
        done = sorted(self.streams.keys() - self.open_streams.keys())
        names = [("done_streams", {"raw_uid": self.raw.uid, "names": done})] if done else []
        request = [("request", self._request)] if self._request is not None else []
        return [*names, *self._sent, *request]


def _continues(before: Document, doc: Document) -> bool:
    if before["descriptor"] != doc["descriptor"]:  # a camera that is read in two streams
        return False
    return all(before[each]["stop"] == doc[each]["start"] for each in ("indices", "seq_nums"))


def _result_in_journal(journal: Path, derived_uid: str | None) -> dict[str, Any] | None:
    """Return the result and error of a derived run that is complete; None if it is not.

    The worker may have died after it had closed the run and before it reported that.
    """
    for directory in (journal, journal / "done"):
        path = journal_path(directory, derived_uid or "")
        # It may be in the other directory, as the ingester moves it; or a line is damaged
        with suppress(FileNotFoundError, ValueError):
            lines = path.read_bytes().splitlines(keepends=True)
            documents: Iterator[tuple[str, dict[str, Any]]]
            documents = (json.loads(line) for line in reversed(lines) if line.endswith(b"\n"))
            last, stop = next(documents, ("", {}))
            # An interrupted derived run is not complete; the new worker repeats it
            if last == "stop" and stop["exit_status"] != "abort":
                results = (doc["data"] for name, doc in documents if name == "event")
                return {"result": next(results, {}), "error": stop.get("reason", "")}
    return None


class WorkerSupervisor:
    """Runs the worker process, and restarts it, on a thread of this class.

    The worker starts with the first run that has a stream to analyze, or by `start`.

    Parameters
    ----------
    name
        Name of the analysis.
    arguments
        Command-line arguments of ``python -m skywright.callbacks.worker``.
    journal
        Directory of journals, to which the worker writes derived runs.
    limits
        Limits of a worker that dies or stalls.
    report
        Called with the uid of a raw run, the name of a stream and its progress: fields of
        `reports.Progress`, and ``second``, the same of second-stage analyses by name. The name of
        the stream is empty when the run is done.
    environment
        Environment variables of the worker, added to those of this process.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        journal: Path,
        limits: WorkerLimits,
        report: Callable[..., object],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.ready = threading.Event()
        """The worker has compiled and loaded what it needs."""
        self._arguments = arguments
        self._environment = environment or {}
        self._journal = journal
        self._limits = limits
        self._report = report
        self._runs: dict[str, _SentRun] = {}
        # No limit here: reports and stop documents must always fit; `put` limits other documents
        self._queue: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._worker: PipedProcess | None = None
        self._failed_starts = 0
        """Number of successive workers that died before they were ready, or without work."""
        self._last_check = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"live-{name}", daemon=True)
        self._thread.start()

    def put(self, name: str, doc: Document, raw: RawRun) -> bool:
        """Queue a document, or the command ``request``, for the worker; does not wait.

        Returns
        -------
        bool
            False if the queue is full. A stop document is always queued.
        """
        if name != "stop" and self._queue.qsize() >= QUEUE_DOCUMENTS:
            return False
        self._queue.put(("document", (name, doc, raw)))
        return True

    def start(self) -> None:
        """Start the worker if it does not run; does not wait."""
        self._queue.put(("start", None))

    def abandon(self, uid: str, reason: str) -> None:
        """End the analysis of a raw run whose documents are no longer sent; does not wait.

        Parameters
        ----------
        uid
            Uid of the raw run.
        reason
            Reason, for the stop documents of the derived runs and the report.
        """
        self._queue.put(("abandon", (uid, reason)))

    @property
    def worker_pid(self) -> int | None:
        """Process id of the present worker."""
        return self._worker.pid if self._worker is not None else None

    def close(self) -> None:
        """End the worker; a run in progress gets an interrupted derived run."""
        self._queue.put(("close", None))
        self._thread.join(2 * END_LIMIT_S)

    def kill(self) -> None:
        """Kill the worker, so that a `close` under way ends at once."""
        worker = self._worker
        if worker is not None:
            worker.kill()

    def _work(self) -> None:
        while True:
            try:
                kind, payload = self._queue.get(timeout=min(self._limits.stall_s / 4, 10.0))
            except queue.Empty:
                self._kill_if_stalled()
                continue
            if kind == "close":
                self._end()
                return
            try:
                self._handle(kind, payload)
                self._kill_if_stalled()
            except Exception:  # go on with the next entry of the queue
                log.exception("analysis %s: %s cannot be processed", self.name, kind)

    def _handle(self, kind: str, payload: Any) -> None:
        """Process an entry of the queue."""
        if kind == "document":
            self._forward(*payload)
        elif kind == "abandon":
            self._abandon(*payload)
        elif kind == "line":
            self._take_line(*payload)
        elif kind == "start" and self._worker is None:
            self._start()
        elif kind == "died" and payload is self._worker:
            self._take_death()

    def _start(self) -> None:
        try:
            self._worker = start_module(
                "skywright.callbacks.worker",
                *self._arguments,
                env={**os.environ, **self._environment},
                start_new_session=True,  # Ctrl-C is for the plan
            )
        except OSError:
            log.exception("analysis %s: the worker cannot be started", self.name)
            self._worker = None
            for uid in list(self._runs):
                self._end_run(uid, "the worker cannot be started")
            return
        os.set_blocking(self._worker.stdin.fileno(), False)
        reading = threading.Thread(target=self._read_lines, args=(self._worker,), daemon=True)
        reading.start()
        watching = (self._worker, reading)
        threading.Thread(target=self._await_death, args=watching, daemon=True).start()
        for run in self._runs.values():
            for stream in run.streams.values():
                stream.last_report = time.monotonic()
            for name, doc in run.documents:
                self._send(name, doc)

    def _read_lines(self, worker: PipedProcess) -> None:
        with worker.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self._queue.put(("line", (worker, line)))

    def _await_death(self, worker: PipedProcess, reading: threading.Thread) -> None:
        """Queue the death of the worker, after its last lines.

        The pipe has no end while a process that the analysis has forked is alive.
        """
        worker.wait()
        reading.join(LAST_LINES_S)
        self._queue.put(("died", worker))

    def _forward(self, name: str, doc: Document, raw: RawRun) -> None:
        if name == "start":
            self._runs[raw.uid] = _SentRun(raw)
        run = self._runs.get(raw.uid)
        if run is None:
            return
        run.remember(name, doc)
        if self._worker is not None:
            self._send(name, doc)
        elif run.raw.streams:
            self._failed_starts = 0
            self._start()  # sends this document too
        elif name == "stop":  # nothing to analyze, and no worker to say so
            self._end_run(raw.uid)

    def _abandon(self, uid: str, reason: str) -> None:
        run = self._runs.get(uid)
        if run is None:
            self._report(uid, "", done=True, error=reason)
            return
        run.abandoned = reason
        if self._worker is None:
            self._end_run(uid, reason)
        else:
            self._send("abandon", {"raw_uid": uid, "reason": reason})

    def _send(self, name: str, doc: Document) -> None:
        """Write a line to the worker; kill one that does not read its pipe."""
        worker = self._worker
        if worker is None:
            return
        pipe, left = worker.stdin.fileno(), memoryview(encode_line(name, doc))
        deadline = time.monotonic() + (PIPE_LIMIT_S if self.ready.is_set() else START_LIMIT_S)
        while left:
            try:
                left = left[os.write(pipe, left) :]
            except BlockingIOError:
                if not select.select([], [pipe], [], max(deadline - time.monotonic(), 0))[1]:
                    log.error("analysis %s: the worker is frozen and is killed", self.name)
                    worker.kill()
                    return
            except BrokenPipeError:
                return

    def _take_line(self, worker: PipedProcess, line: bytes) -> None:
        if worker is not self._worker:
            return
        kind, facts = json.loads(line)
        if kind == "ready":
            self.ready.set()
            return
        self._failed_starts = 0
        uid = facts.pop("raw_uid")
        run = self._runs.get(uid)
        if run is None:
            return
        if kind == "run_done":
            self._end_run(uid, run.abandoned)
            return
        name = facts.pop("stream")
        stream = run.streams[name]
        stream.last_report = time.monotonic()
        stream.reached, stream.derived_uid = facts["reached"], facts["derived_uid"]
        stream.error, stream.done = facts["error"], kind == "stream_done"
        self._report(uid, name, done=stream.done, **facts)

    def _end_run(self, uid: str, error: str = "") -> None:
        """Report that a run is done, or ended by `error`."""
        facts = {"error": error} if error else {}
        for name in (*self._runs.pop(uid).open_streams, ""):
            self._report(uid, name, done=True, **facts)

    def _take_death(self) -> None:
        """Start a new worker; end the runs that need none, and those whose workers died too often.

        After too many failed starts in a row none is started.
        """
        worker, self._worker = self._worker, None
        assert worker is not None
        worker.stdin.close()
        has_work = any(run.has_work for run in self._runs.values())
        self._failed_starts += not (self.ready.is_set() and has_work)
        self.ready.clear()
        status, limit = worker.returncode, self._limits.restarts
        for uid, run in list(self._runs.items()):
            # A run of which the worker got no stream cannot be the reason
            run.deaths += run.has_work
            for name, stream in run.open_streams.items():
                if (end := self._final_progress(run, name)) is not None:
                    stream.done = True
                    self._report(uid, name, done=True, **end)
            if run.has_work and max(run.deaths, self._failed_starts) > limit:
                self._end_run(uid, f"the worker died again (status {status})")
            elif run.abandoned or (run.raw.stop is not None and not run.open_streams):
                self._end_run(uid, run.abandoned)
        if self._failed_starts > limit:
            if not has_work:  # else the end of the run is reported
                log.error(
                    "analysis %s: the worker dies without work (status %s); the next run starts it",
                    self.name,
                    status,
                )
            return
        log.warning("analysis %s: the worker died (status %s); starting again", self.name, status)
        self._start()

    def _final_progress(self, run: _SentRun, name: str) -> dict[str, Any] | None:
        """Return the final progress of a stream that ended before the worker died; else None."""
        stream = run.streams[name]
        if (ending := _result_in_journal(self._journal, stream.derived_uid)) is not None:
            return {"reached": run.raw.streams[name].announced(), **ending}
        return {} if stream.error else None  # it failed, and would fail again

    def _kill_if_stalled(self) -> None:
        now = time.monotonic()
        # This process was stopped (Ctrl-Z), or waited for the pipe: there may be unread reports
        was_away = now - self._last_check > self._limits.stall_s / 2
        self._last_check = now
        limit_s = self._limits.stall_s
        if not self.ready.is_set():
            limit_s = max(limit_s, START_LIMIT_S)
        for run in self._runs.values():
            for name, stream in run.open_streams.items():
                is_ending = run.raw.stop is not None or bool(run.abandoned)
                must_report = is_ending or run.raw.streams[name].announced() > stream.reached
                if not must_report or stream.error or was_away:
                    stream.last_report = now
                elif now - stream.last_report > limit_s and self._worker is not None:
                    log.error("analysis %s: silent for %s s, killed", self.name, limit_s)
                    self._worker.kill()
                    stream.last_report = now

    def _end(self) -> None:
        """Let the worker finish; report the runs that it did not end."""
        worker = self._worker
        if worker is not None:
            worker.stdin.close()
            self._read_to_end(worker)
        for uid in list(self._runs):
            self._end_run(uid, "the session ended before the analysis did")

    def _read_to_end(self, worker: PipedProcess) -> None:
        deadline = time.monotonic() + END_LIMIT_S
        while True:
            try:
                kind, payload = self._queue.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                worker.kill()
                deadline = time.monotonic() + END_LIMIT_S  # for the entry ``died``
                continue
            if kind == "line":
                try:
                    self._take_line(*payload)
                except Exception:  # the end of the runs must be reported
                    log.exception("analysis %s: a report cannot be processed", self.name)
            elif kind == "died" and payload is worker:
                return

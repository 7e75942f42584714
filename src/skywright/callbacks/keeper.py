"""Looks after the process of a live analysis: feeds it, hears it, and replaces it when it dies."""

import json
import logging
import os
import queue
import select
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skywright.callbacks.follow import Document, RawRun
from skywright.callbacks.journal import encode_line, journal_path
from skywright.processes.child import start_module

QUEUE_DOCUMENTS = 20_000
"""A document that finds this many entries before it in the queue is not taken."""
PIPE_LIMIT_S = 10.0
"""A worker reads its pipe at once. One that has not read it for this time is frozen."""
END_LIMIT_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """When a worker is given up.

    Parameters
    ----------
    restarts
        Deaths of the worker in one run, after which that run is given up.
    stall_s
        A worker that has frames and reports nothing for this time is killed.
    """

    restarts: int = 3
    stall_s: float = 120.0


class _FollowedStream:
    """How far the worker is in one stream of a raw run."""

    def __init__(self) -> None:
        self.heard = time.monotonic()
        self.reached = 0
        self.derived_uid: str | None = None
        self.error = ""
        self.done = False


class _Followed:
    """A raw run as the session knows it, and the documents that a new worker would need."""

    def __init__(self, raw: RawRun) -> None:
        self.raw = raw
        self.deaths = 0
        self.abandoned = ""
        """Why no more of its documents come before its stop document; "" for most runs."""
        self._streams: dict[str, _FollowedStream] = {}
        self._log: list[tuple[str, Document]] = []
        self._datums: dict[str, int] = {}
        self._question: Document | None = None

    @property
    def streams(self) -> dict[str, _FollowedStream]:
        """The streams that have the required data keys, by name."""
        for name in list(self.raw.streams):  # the RunEngine's thread adds to them
            self._streams.setdefault(name, _FollowedStream())
        return self._streams

    @property
    def open_streams(self) -> dict[str, _FollowedStream]:
        """Those of which more is to be heard."""
        return {name: each for name, each in self.streams.items() if not each.done}

    def announced(self, stream: str) -> int:
        """Return the number of frames that documents have told of."""
        table = self.raw.streams[stream].table
        return table.announced() if table is not None else 0

    def remember(self, name: str, doc: Document) -> None:
        """Keep a document; one that continues the last rows of its resource is joined to it.

        Of questions the last one is kept.
        """
        if name == "ask":
            self._question = doc
            return
        if name == "stream_datum":
            uid = doc["stream_resource"]
            place = self._datums.get(uid)
            if place is not None and _continues(before := self._log[place][1], doc):
                ranges = {
                    each: {"start": before[each]["start"], "stop": doc[each]["stop"]}
                    for each in ("indices", "seq_nums")
                }
                self._log[place] = (name, {**before, **ranges})
                return
            self._datums[uid] = len(self._log)
        self._log.append((name, doc))

    @property
    def documents(self) -> list[tuple[str, Document]]:
        """What a new worker must know: all but the streams that are done."""
        done = self.streams.keys() - self.open_streams.keys()
        known = [
            (name, doc)
            for name, doc in self._log
            if name != "descriptor" or doc.get("name", "primary") not in done
        ]
        return known if self._question is None else [*known, ("ask", self._question)]


def _continues(before: Document, doc: Document) -> bool:
    return all(before[each]["stop"] == doc[each]["start"] for each in ("indices", "seq_nums"))


def _last_words(journal: Path, derived_uid: str | None) -> dict[str, Any] | None:
    """Return how a derived run ended that was done, though its worker did not say so."""
    for directory in (journal, journal / "done"):
        path = journal_path(directory, derived_uid or "")
        if path.is_file():
            lines = path.read_bytes().splitlines(keepends=True)[-500:]
            docs = [json.loads(line) for line in lines if line.endswith(b"\n")]
            results = [doc["data"] for name, doc in docs if name == "event"]
            if docs and docs[-1][0] == "stop" and docs[-1][1]["exit_status"] != "abort":
                result = results[-1] if results else {}
                return {"result": result, "error": docs[-1][1].get("reason", "")}
    return None


class Keeper:
    """One thread that owns the worker.

    Parameters
    ----------
    name
        Of the analysis.
    arguments
        Of ``python -m skywright.callbacks.worker``.
    journal
        Where the worker writes its derived runs.
    patience
        When to give up.
    hear
        Called with the uid of a raw run, the name of a stream and what is new of it (fields of
        `reports.Progress`); with an empty name when no more comes of the run.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        journal: Path,
        patience: Patience,
        hear: Callable[..., object],
    ) -> None:
        self.name = name
        self.ready = threading.Event()
        """The worker has compiled and loaded what it needs."""
        self._arguments = arguments
        self._journal = journal
        self._patience = patience
        self._tell = hear
        self._runs: dict[str, _Followed] = {}
        # `put` sets the limit: what the worker reports, and the end of a run, must always have room
        self._queue: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._worker: subprocess.Popen[bytes] | None = None
        self._failed_starts = 0
        self._thread = threading.Thread(target=self._keep, name=f"live-{name}", daemon=True)
        self._thread.start()

    def put(self, name: str, doc: Document, raw: RawRun) -> bool:
        """Take in a document, at once.

        Returns
        -------
        bool
            False if there is no room for it; for a stop document there always is.
        """
        if name != "stop" and self._queue.qsize() >= QUEUE_DOCUMENTS:
            return False
        self._queue.put(("document", (name, doc, raw)))
        return True

    def abandon(self, uid: str, reason: str) -> None:
        """End the analysis of a raw run of which no more documents come, at once.

        Parameters
        ----------
        uid
            Of the raw run.
        reason
            Why; it is in the stop documents of the derived runs, and reported.
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

    def _keep(self) -> None:
        self._start()
        while True:
            try:
                what, payload = self._queue.get(timeout=min(self._patience.stall_s / 4, 10.0))
            except queue.Empty:
                self._kill_if_stalled()
                continue
            if what == "document":
                self._forward(*payload)
            elif what == "abandon":
                self._abandon(*payload)
            elif what == "line":
                self._hear(*payload)
            elif what == "died" and payload is self._worker:
                self._begin_again()
            elif what == "close":
                self._end()
                return
            self._kill_if_stalled()

    def _start(self) -> None:
        try:
            self._worker = start_module(
                "skywright.callbacks.worker",
                *self._arguments,
                start_new_session=True,  # Ctrl-C is for the plan
            )
        except OSError:
            log.exception("analysis %s: the worker cannot be started", self.name)
            self._worker = None
            for uid in list(self._runs):
                self._end_run(uid, "the worker cannot be started")
            return
        assert self._worker.stdin is not None
        os.set_blocking(self._worker.stdin.fileno(), False)
        threading.Thread(target=self._listen, args=(self._worker,), daemon=True).start()

    def _listen(self, worker: subprocess.Popen[bytes]) -> None:
        assert worker.stdout is not None
        with worker.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self._queue.put(("line", (worker, line)))
        worker.wait()
        self._queue.put(("died", worker))

    def _forward(self, name: str, doc: Document, raw: RawRun) -> None:
        if name == "start":
            self._runs[raw.uid] = _Followed(raw)
            if self._worker is None:
                self._failed_starts = 0
                self._start()
        run = self._runs.get(raw.uid)
        if run is not None:
            run.remember(name, doc)
            self._send(name, doc)

    def _abandon(self, uid: str, reason: str) -> None:
        run = self._runs.get(uid)
        if run is None:
            self._tell(uid, "", done=True, error=reason)
            return
        run.abandoned = reason
        if self._worker is None:
            self._end_run(uid, reason)
        else:
            self._send("abandon", {"raw_uid": uid, "reason": reason})

    def _send(self, name: str, doc: Document) -> None:
        """Write a line to the worker; one that does not read is killed, and its death is heard."""
        worker = self._worker
        if worker is None:
            return
        assert worker.stdin is not None
        pipe, left = worker.stdin.fileno(), memoryview(encode_line(name, doc))
        deadline = time.monotonic() + PIPE_LIMIT_S
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

    def _hear(self, worker: subprocess.Popen[bytes], line: bytes) -> None:
        if worker is not self._worker:
            return
        said = json.loads(line)
        if isinstance(said, dict):  # {"ready": ...}
            self._failed_starts = 0
            self.ready.set()
            return
        what, facts = said
        uid = facts["raw_uid"]
        run = self._runs.get(uid)
        if run is None:
            return
        if what == "over":
            self._end_run(uid, run.abandoned)
            return
        stream = run.streams[facts["stream"]]
        stream.heard = time.monotonic()
        stream.reached, stream.derived_uid = facts["reached"], facts["derived_uid"]
        stream.error, stream.done = facts["reason"], what == "done"
        keys = ("derived_uid", "reached", "rows", "columns", "result", "second")
        news = {key: facts[key] for key in keys}
        self._tell(uid, facts["stream"], done=stream.done, error=stream.error, **news)

    def _end_run(self, uid: str, error: str = "") -> None:
        """Tell that no more comes of a run, for the reason in `error` or because all is done."""
        run = self._runs.pop(uid)
        for name in run.open_streams:
            self._tell(uid, name, done=True, **({"error": error} if error else {}))
        self._tell(uid, "", done=True, **({"error": error} if error else {}))

    def _begin_again(self) -> None:
        worker, self._worker = self._worker, None
        assert worker is not None
        assert worker.stdin is not None
        worker.stdin.close()
        self._failed_starts += not self.ready.is_set()
        self.ready.clear()
        status, limit = worker.returncode, self._patience.restarts
        for uid, run in list(self._runs.items()):
            run.deaths += bool(run.raw.streams)
            for name, stream in run.open_streams.items():
                if (end := self._end_of(run, name)) is not None:
                    stream.done = True
                    self._tell(uid, name, done=True, **end)
            if max(run.deaths, self._failed_starts) > limit:
                self._end_run(uid, f"the worker died again (status {status})")
            elif run.abandoned or (run.raw.stop is not None and not run.open_streams):
                self._end_run(uid, run.abandoned)
        if self._failed_starts > limit:
            log.error("analysis %s: the worker does not start (status %s)", self.name, status)
            return
        log.warning("analysis %s: the worker died (status %s); starting again", self.name, status)
        self._start()
        for run in self._runs.values():
            for stream in run.streams.values():
                stream.heard = time.monotonic()
            for name, doc in run.documents:
                self._send(name, doc)

    def _end_of(self, run: _Followed, name: str) -> dict[str, Any] | None:
        """Say how a stream's analysis ended before the worker died; None if it had not."""
        stream = run.streams[name]
        if (words := _last_words(self._journal, stream.derived_uid)) is not None:
            return {"reached": run.announced(name), **words}
        return {} if stream.error else None  # it has failed, as it would again

    def _kill_if_stalled(self) -> None:
        now = time.monotonic()
        for run in self._runs.values():
            for name, stream in run.open_streams.items():
                is_ending = run.raw.stop is not None or bool(run.abandoned)
                behind = is_ending or run.announced(name) > stream.reached
                if not behind or stream.error:
                    stream.heard = now
                elif now - stream.heard > self._patience.stall_s and self._worker is not None:
                    limit_s = self._patience.stall_s
                    log.error("analysis %s: silent for %s s, killed", self.name, limit_s)
                    self._worker.kill()
                    stream.heard = now

    def _end(self) -> None:
        """Let the worker finish and hear its last words; end what it did not."""
        worker = self._worker
        if worker is not None:
            assert worker.stdin is not None
            worker.stdin.close()
            self._hear_out(worker)
        for uid in list(self._runs):
            self._end_run(uid, "the session ended before the analysis did")

    def _hear_out(self, worker: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + END_LIMIT_S
        while True:
            try:
                what, payload = self._queue.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                worker.kill()
                deadline = time.monotonic() + END_LIMIT_S  # for its death to be heard
                continue
            if what == "line":
                self._hear(*payload)
            elif what == "died" and payload is worker:
                return

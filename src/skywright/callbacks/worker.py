"""The process that runs an analysis live: documents in on stdin, progress out on stdout.

``python -m skywright.callbacks.worker NAME --journal DIR --assets DIR`` reads ``[name, document]``
JSON lines, reads the files that they refer to, and writes one derived run for each stream of a raw
run that has the required data keys, except the stream ``baseline``. The parameters of the analysis
are in the environment variable `worker_supervisor.PARAMETERS`. Each second-stage analysis of
`worker_supervisor.SECOND_STAGES` that fits the raw run writes one more, over the rows of the first
usable stream, if it has any. A failure of the analysis does not end this process; the stop document
of the derived run has the reason. `worker_supervisor` describes the lines of both pipes.
"""

import argparse
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from skywright.analysis.named import make_analysis, make_second_stage
from skywright.analysis.second import SecondStage
from skywright.callbacks.drawing import Drawer
from skywright.callbacks.journal import Journal, encode_line
from skywright.callbacks.raw_run import RawRun, RequiredKeys
from skywright.callbacks.run_ids import RunIds
from skywright.callbacks.second_analysis import SecondAnalysis
from skywright.callbacks.stream_analysis import DRAWING_POLL_S, BacklogLimits, StreamAnalysis
from skywright.callbacks.stream_documents import Emit
from skywright.callbacks.worker_supervisor import PARAMETERS, SECOND_STAGES
from skywright.errors import SkywrightError
from skywright.processes.child import keep_stdout
from skywright.processes.logs import log_to_stderr
from skywright.waiting import pause

REMAINING_FRAMES_LIMIT_S = 3.0
"""Time limit for the remaining frames after the session has ended, s."""
BEAT_S = 2.0
"""Minimum period, s, of progress messages without a change, which a worker sends while it waits for
frames or pictures. Without them it would count as stalled. None is sent during a batch."""

log = logging.getLogger(__name__)


class SessionPipe:
    """Lines from the session, and messages to it.

    Parameters
    ----------
    source
        File descriptor of the lines. A thread reads them at once, so that the pipe never fills.
    messages
        Where messages go.
    """

    def __init__(self, source: int, messages: IO[bytes]) -> None:
        self.lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        """Complete lines; None is their end."""
        self._messages = messages
        threading.Thread(target=self._read, args=(source,), daemon=True).start()

    def send(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write a message; it is dropped if the session has ended."""
        with suppress(BrokenPipeError):
            self._messages.write(encode_line(kind, content))
            self._messages.flush()

    def end(self) -> None:
        """Append the end mark to `lines`."""
        self.lines.put(None)

    def _read(self, source: int) -> None:
        rest = b""
        while piece := os.read(source, 1 << 16):
            *complete, rest = (rest + piece).split(b"\n")
            for line in complete:
                self.lines.put(line)
        self.end()


class Worker:
    """The loop of this process: reads documents, analyzes frames, reports progress.

    Parameters
    ----------
    name, parameters, keys
        The analysis, its parameters, and the full data keys of inputs, as for `LiveAnalysis`.
    emit
        Called with each derived document.
    assets
        Root directory of assets.
    limits
        Limits of the backlog.
    stages
        Second-stage analyses by name.
    session
        Where documents come from and progress goes.
    """

    def __init__(
        self,
        name: str,
        parameters: dict[str, Any],
        keys: Mapping[str, str],
        emit: Emit,
        assets: Path,
        limits: BacklogLimits,
        stages: Mapping[str, SecondStage],
        session: SessionPipe,
    ) -> None:
        self._make = partial(make_analysis, name, parameters)
        template = self._make()
        template.warm_up()
        for stage in stages.values():
            stage.warm_up()
        self._stages = stages
        self._required = RequiredKeys.of(template, keys)
        self._emit, self._assets, self._limits = emit, assets, limits
        self._ids = RunIds()
        self._runs: dict[str, RawRun] = {}
        self._second: dict[str, list[SecondAnalysis]] = {}
        """Second-stage analyses, by uid of the raw run."""
        self._streams: dict[tuple[str, str], StreamAnalysis] = {}
        """Streams in analysis, by uid of the raw run and name of the stream."""
        self._done_streams: dict[str, list[str]] = {}
        """Names of the streams that an earlier worker has done, by uid of the raw run."""
        self._session = session
        self._drawer = Drawer()
        self._picture_thread = ThreadPoolExecutor(1, "pictures")

    def run(self) -> None:
        """Work until stdin ends."""
        is_open, beat_due = True, 0.0
        while is_open:
            worked = [self._step(stream) for stream in list(self._streams.values())]
            due = [stream.write_due() for stream in self._streams.values()]
            timeout = min([threading.TIMEOUT_MAX, *(wait for wait in due if wait is not None)])
            if time.monotonic() >= beat_due:
                beat_due = time.monotonic() + BEAT_S
                for each in self._streams.values():
                    self._session.send("progress", each.take_progress())
            is_open = self._process_lines(timeout, block=not any(worked))
        self._analyze_remaining()
        for each in list(self._streams.values()):
            ended = each.raw.stop is not None
            when = "before the analysis did" if ended else "in the middle of the run"
            each.interrupt(f"the session ended {when}")
            self._remove_if_ended(each)
        self._drawer.close()
        self._picture_thread.shutdown(wait=False, cancel_futures=True)

    def _analyze_remaining(self) -> None:
        """Analyze the remaining frames; wait for files only if the raw run has ended."""
        deadline = time.monotonic() + REMAINING_FRAMES_LIMIT_S
        left = list(self._streams.values())
        while left and time.monotonic() < deadline:
            worked = [self._step(each) for each in left]
            left = [
                each
                for each, has_worked in zip(left, worked, strict=True)
                if not each.exit_status and (has_worked or each.raw.stop is not None)
            ]
            if left and not any(worked):
                pause(DRAWING_POLL_S)

    def _process_lines(self, timeout: float, *, block: bool) -> bool:
        """Process all queued lines, or wait for one; return False at the end of stdin."""
        with suppress(queue.Empty):
            while (line := self._session.lines.get(block, timeout)) is not None:
                self._process(*json.loads(line))
                block = False
            return False
        return True

    def _process(self, name: str, doc: dict[str, Any]) -> None:
        """Carry out a command of the session, or process a document of a run."""
        if name == "request":
            for second in self._second.get(doc["raw_uid"], ()):
                second.note_request(doc["number"], doc["frames"])
            for stream in self._streams_of(doc["raw_uid"]):
                stream.start_decision(doc["frames"])
        elif name == "abandon":
            self._abandon(doc["raw_uid"], doc["reason"])
        elif name == "done_streams":
            self._done_streams[doc["raw_uid"]] = doc["names"]
        else:
            self._process_document(name, doc)

    def _process_document(self, name: str, doc: dict[str, Any]) -> None:
        uid = self._ids.of(name, doc)
        if uid is None:
            log.debug("%s document of an unknown run is ignored: %s", name, doc)
            return
        if name == "start":
            self._runs[uid] = RawRun(doc, self._required)
            self._second[uid] = [
                SecondAnalysis(analysis, stage, doc, self._emit, self._assets, self._drawer)
                for analysis, stage in self._stages.items()
            ]
            return
        run = self._runs.get(uid)
        if run is None:
            return
        run(name, doc)
        for second in self._second[uid]:
            second.take(name, doc)
        if name in ("descriptor", "stream_resource"):
            self._begin_streams(run)
        elif name == "stop":
            for stream in self._streams_of(uid):
                stream.start_deadline()
                self._remove_if_ended(stream)
            self._forget_if_over(run)

    def _abandon(self, uid: str, reason: str) -> None:
        """End the derived runs of a raw run whose documents are no longer sent."""
        run = self._runs.get(uid)
        if run is None:
            return
        run.stop = run.stop or {}  # no further document comes
        for stream in self._streams_of(uid):
            stream.interrupt(reason)
            self._remove_if_ended(stream)
        self._forget_if_over(run)

    def _streams_of(self, uid: str) -> list[StreamAnalysis]:
        return [each for (raw_uid, _), each in self._streams.items() if raw_uid == uid]

    def _begin_streams(self, run: RawRun) -> None:
        """Begin the analysis of new streams; give the second stage to the first usable one.

        A stream resource may show that a stream cannot be used.
        """
        done = self._done_streams.get(run.uid, ())
        for name, raw_stream in run.streams.items():
            if (run.uid, name) not in self._streams and name not in done:
                stream = StreamAnalysis(
                    raw_stream,
                    self._make,
                    self._emit,
                    self._assets,
                    self._limits,
                    self._picture_thread,
                )
                self._streams[run.uid, name] = stream
                # The session needs the uid of the derived run if this process dies
                self._session.send("progress", stream.take_progress())
        for stream in self._streams_of(run.uid):
            is_first = stream.raw_stream.name == run.first_usable
            stream.second = self._second[run.uid] if is_first else []

    def _step(self, stream: StreamAnalysis) -> bool:
        worked = stream.step()
        if worked:
            self._session.send("progress", stream.take_progress())
        worked |= stream.close_step()
        self._remove_if_ended(stream)
        return worked

    def _remove_if_ended(self, stream: StreamAnalysis) -> None:
        run = stream.raw
        if stream.ended and self._streams.pop((run.uid, stream.raw_stream.name), None) is not None:
            self._session.send("stream_done", stream.take_progress())
            self._forget_if_over(run)

    def _forget_if_over(self, run: RawRun) -> None:
        if run.uid in self._runs and run.stop is not None and not self._streams_of(run.uid):
            del self._runs[run.uid], self._second[run.uid]
            self._done_streams.pop(run.uid, None)
            self._session.send("run_done", {"raw_uid": run.uid})


def main(arguments: list[str] | None = None) -> int:
    """Run the worker; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m skywright.callbacks.worker")
    parser.add_argument("name", help="analysis: a registered name or module:Class")
    parser.add_argument("--keys", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--journal", type=Path, required=True, metavar="DIR")
    parser.add_argument("--assets", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--max-behind", type=float, default=BacklogLimits.max_behind_s, metavar="SECONDS"
    )
    parser.add_argument(
        "--catch-up", type=float, default=BacklogLimits.catch_up_s, metavar="SECONDS"
    )
    options = parser.parse_args(arguments)
    log_to_stderr()
    # Read before the analysis is compiled: the first documents can fill the pipe meanwhile
    session = SessionPipe(sys.stdin.fileno(), keep_stdout())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a session pauses only the plan
    journal = Journal(options.journal)
    limits = BacklogLimits(options.max_behind, options.catch_up)
    try:
        second = json.loads(os.environ.get(SECOND_STAGES, "{}"))
        stages = {name: make_second_stage(name, parameters) for name, parameters in second.items()}
        worker = Worker(
            options.name,
            json.loads(os.environ.get(PARAMETERS, "{}")),
            options.keys,
            journal,
            options.assets,
            limits,
            stages,
            session,
        )
    except SkywrightError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: session.end())  # as if stdin had ended
    session.send("ready", {"analysis": options.name})
    worker.run()
    journal.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Analyzes raw runs live: a callback of the RunEngine that sends documents to a worker process."""

import itertools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skywright.analysis.named import is_configured_by_devices, make_analysis, make_second_stage
from skywright.callbacks.raw_run import Document, RawRun, RequiredKeys
from skywright.callbacks.reports import Progress, Reports
from skywright.callbacks.run_ids import RunIds
from skywright.callbacks.stream_analysis import BacklogLimits
from skywright.callbacks.worker_supervisor import (
    PARAMETERS,
    SECOND_STAGES,
    START_LIMIT_S,
    WorkerLimits,
    WorkerSupervisor,
)
from skywright.words import counted

QUEUE_FULL = "the worker did not take the documents in time"
"""Reason for the end of an analysis whose queue of documents is full."""

log = logging.getLogger(__name__)


class LiveAnalysis(Reports):
    """Analyzes raw runs live in a worker process; a callback of the RunEngine.

    Subscribe it after the journal. It never raises and never waits.

    Each stream of a raw run that has the required data keys gets a derived run, except the stream
    ``baseline``. Methods with a `stream` argument use the first of these streams by default; one
    whose inputs cannot be used, such as two cameras for one input, is not counted. When the worker
    dies, a new one analyzes the present runs again, from their first frame, into new derived runs.

    The worker can run second-stage analyses too (`skywright.analysis.second`). They work on the
    rows of that first stream, when a device requests a result (`SecondReports.request_result`) and
    after the end of the run.

    Parameters
    ----------
    name, parameters
        The analysis (`skywright.analysis.named`).
    journal, assets
        Directories of the store.
    keys
        Full data keys by required name, see `RequiredKeys`.
    limits
        Limits of the backlog.
    worker_limits
        Limits of a worker that dies or stalls.
    second
        Parameters of second-stage analyses by name.

    Raises
    ------
    ConfigError
        If there is no such analysis or it does not take the parameters.
    """

    def __init__(
        self,
        name: str,
        parameters: dict[str, Any] | None = None,
        *,
        journal: Path,
        assets: Path,
        keys: Mapping[str, str] | None = None,
        limits: BacklogLimits | None = None,
        worker_limits: WorkerLimits | None = None,
        second: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        analysis = make_analysis(name, parameters)
        super().__init__(name, analysis)
        second = dict(second or {})
        self.stages = {each: make_second_stage(each, second[each]) for each in second}
        """Second-stage analyses, by name."""
        self.second_reports = {each: SecondReports(each, self) for each in second}
        """Reports of the second-stage analyses, by name."""
        self._request_numbers = itertools.count(1)
        self._second_keys: dict[str, frozenset[str]] = {}
        """Data keys whose values in events the second-stage analyses need, by uid of the run."""
        limits = limits or BacklogLimits()
        self._required = RequiredKeys.of(analysis, keys or {})
        self._ids = RunIds()
        self._raws: dict[str, RawRun] = {}
        # The defaults of an analysis that its devices configure would override the configuration:
        # send only the parameters that the user gave.
        given = (parameters or {}) if is_configured_by_devices(name) else analysis.parameters
        arguments = [
            name,
            *("--keys", json.dumps(dict(keys or {}))),
            *("--journal", str(journal), "--assets", str(assets)),
            *("--max-behind", str(limits.max_behind_s), "--catch-up", str(limits.catch_up_s)),
        ]
        self._supervisor = WorkerSupervisor(
            name,
            arguments,
            journal,
            worker_limits or WorkerLimits(),
            self.accept_report,
            # All users can read command lines; the address of a service may hold a password
            {PARAMETERS: json.dumps(given), SECOND_STAGES: json.dumps(second)},
        )

    def __repr__(self) -> str:
        """Return name and state, as the console of a session shows it."""
        state = "starts" if self.is_starting else "is ready"
        worker = "does not run" if self.worker_pid is None else state
        runs = counted(len(self.unfinished), "run")
        return f"<analysis {self.name}: its worker {worker}, {runs} not done>"

    # Documents of the RunEngine -----------------------------------------------------------------

    def __call__(self, name: str, doc: Document) -> None:
        """Process a document of the session; the document is not changed."""
        try:
            self._accept(name, doc)
        except Exception:  # an analysis must never end a run
            log.exception("analysis %s: %s document could not be processed", self.name, name)

    def _accept(self, name: str, doc: Document) -> None:
        # The worker parses each document again. This process parses it too: to know which documents
        # to send (`_is_needed`), and for `Reports.announced`, the number of frames in them
        uid = self._ids.of(name, doc)
        if uid is None:
            log.debug("analysis %s: %s document of an unknown run is ignored", self.name, name)
            return
        if name == "start" and doc.get("purpose") != "analysis":
            self._raws[uid] = RawRun(doc, self._required, keep_values=False)
            self._second_keys[uid] = self._event_keys_of_second(doc)
        raw = self._raws.get(uid)
        if raw is None and name == "stop" and self.present_run is not None and uid == self.raw_uid:
            self.present_run.stop = doc  # the run was abandoned, so it is not in `_raws`
        if raw is None or not self._is_needed(raw, name, doc):
            return
        raw(name, doc)
        if name == "descriptor" and raw.streams:
            for reports in (self, *self.second_reports.values()):
                reports.present_run = raw
        if name == "stop":
            del self._raws[raw.uid], self._second_keys[raw.uid]
        if name == "event":
            stream = raw.stream_of(doc)
            keys = self._second_keys[raw.uid].union(stream.event_keys if stream else ())
            data = {key: doc["data"][key] for key in keys if key in doc["data"]}
            doc = {**doc, "data": data, "timestamps": {}}
        self._send(name, doc, raw)

    def _event_keys_of_second(self, start: Document) -> frozenset[str]:
        """Return the data keys whose values in events the second-stage analyses need."""
        keys: set[str] = set()
        for name, stage in self.stages.items():
            try:
                keys |= stage.event_keys(start)
            except Exception:  # the first analysis goes on
                log.exception("analysis %s gets no events of run %s", name, start["uid"])
        return frozenset(keys)

    def _send(self, name: str, doc: Document, raw: RawRun) -> None:
        """Send a document or a request of a run to the worker; abandon the run if that fails."""
        if not self._supervisor.put(name, doc, raw):
            self._raws.pop(raw.uid, None)
            self._second_keys.pop(raw.uid, None)
            self._supervisor.abandon(raw.uid, QUEUE_FULL)

    def _is_needed(self, raw: RawRun, name: str, doc: Document) -> bool:
        """Return whether the worker needs a document.

        Second-stage analyses get all documents, except events without their keys, and event pages
        if they need no keys.
        """
        if raw.needs(name, doc):
            return True
        if name == "event":
            return not self._second_keys[raw.uid].isdisjoint(doc["data"])
        return bool(self.stages) and (name != "event_page" or bool(self._second_keys[raw.uid]))

    # Methods for devices and the session --------------------------------------------------------

    def request_second(self, frames: int) -> int:
        """Request the second-stage results over the first `frames` frames of the present run.

        Frames that are analyzed before the answer are in it too.

        Returns
        -------
        int
            Number of the request; see `Progress.answered`.
        """
        number, raw = next(self._request_numbers), self.present_run
        if raw is not None:
            self._send("request", {"raw_uid": raw.uid, "number": number, "frames": frames}, raw)
        return number

    @property
    def is_starting(self) -> bool:
        """Whether the worker is not ready for frames yet: it must load or compile what it needs."""
        return not self._supervisor.ready.is_set()

    def start(self) -> None:
        """Start the worker now, without waiting; else it starts with the first run."""
        self._supervisor.start()

    def wait_ready(self, timeout_s: float = START_LIMIT_S) -> None:
        """Start the worker, and wait until it has compiled and loaded what it needs.

        Raises
        ------
        TimeoutError
            If it is not ready within `timeout_s`.
        """
        self.start()
        if not self._supervisor.ready.wait(timeout_s):
            raise TimeoutError(f"analysis {self.name}: no worker is ready after {timeout_s} s")

    @property
    def worker_pid(self) -> int | None:
        """Process id of the present worker."""
        return self._supervisor.worker_pid

    def close(self) -> None:
        """End the worker; a run in progress gets an interrupted derived run."""
        self._supervisor.close()

    def kill(self) -> None:
        """Kill the worker of an analysis whose `close` takes too long."""
        self._supervisor.kill()

    # Reports of the worker ----------------------------------------------------------------------

    def accept_report(self, uid: str, stream: str, **facts: Any) -> Progress:
        """Store what the worker has reported, also of second-stage analyses."""
        of_second = facts.pop("second", {})
        progress = super().accept_report(uid, stream, **facts)
        shared = {key: facts[key] for key in ("reached", "done") if key in facts}
        failed = {}
        if facts.get("error"):
            failed = {"error": facts["error"], "error_type": facts.get("error_type", "")}
        for name, each in self.second_reports.items():
            each.accept_report(uid, stream, **{**shared, **of_second.get(name, {}), **failed})
        return progress


class SecondReports(Reports):
    """Progress and results of a second-stage analysis.

    Parameters
    ----------
    name
        Name of the analysis.
    first
        The live analysis whose rows it works on.
    """

    def __init__(self, name: str, first: LiveAnalysis) -> None:
        super().__init__(name, first.stages[name].analysis)
        self._first = first

    @property
    def is_starting(self) -> bool:
        """Whether the worker of the first analysis is not ready for frames yet."""
        return self._first.is_starting

    def request_result(self, frames: int) -> int:
        """Request the result of the first `frames` frames, and of all documents until now."""
        return self._first.request_second(frames)

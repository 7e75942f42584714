"""A document callback that runs an analysis in a process of its own, and says how far it is."""

import itertools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skywright.analysis.named import is_configured_by_devices, make_analysis, make_second_stage
from skywright.callbacks.follow import Document, RawRun, RequiredKeys, RunIds
from skywright.callbacks.followed import Limits
from skywright.callbacks.keeper import Keeper, Patience
from skywright.callbacks.reports import Progress, Reports

log = logging.getLogger(__name__)


class LiveAnalysis(Reports):
    """Subscribe it to the RunEngine after the journal; it never raises and never waits.

    Each stream of a raw run that has the required data keys gets a derived run, others nothing.
    What a session asks without naming a stream is of the run's first. When the worker dies another
    begins the present runs again, from their first frame, in new derived runs.

    Its process may hold second-stage analyses as well (`skywright.analysis.second`). They work on
    the rows found in a run's first stream: when they are asked, and once the run has ended.

    Parameters
    ----------
    name, parameters
        The analysis (`skywright.analysis.named`).
    journal, assets
        Directories of the store.
    keys
        Full data keys of inputs, where more than one would fit.
    limits
        When the worker stops to catch up.
    patience
        When a worker is given up.
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
        limits: Limits | None = None,
        patience: Patience | None = None,
        second: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        analysis = make_analysis(name, parameters)
        super().__init__(name, analysis)
        second = dict(second or {})
        self.stages = {each: make_second_stage(each, second[each]) for each in second}
        self.second = {each: SecondReports(each, self) for each in second}
        """Reports of the second-stage analyses, by name."""
        self._questions = itertools.count(1)
        self._event_keys: dict[str, frozenset[str]] = {}
        limits = limits or Limits()
        self._required = RequiredKeys.of(analysis, keys or {})
        self._ids = RunIds()
        self._raws: dict[str, RawRun] = {}
        # Defaults must not hold against what a run's configuration says.
        given = (parameters or {}) if is_configured_by_devices(name) else analysis.parameters
        arguments = [
            *(name, "--parameters", json.dumps(given)),
            *("--keys", json.dumps(dict(keys or {}))),
            *("--journal", str(journal), "--assets", str(assets)),
            *("--second", json.dumps(second)),
            *("--max-behind", str(limits.max_behind_s), "--catch-up", str(limits.catch_up_s)),
        ]
        self._keeper = Keeper(name, arguments, journal, patience or Patience(), self.report)

    # The RunEngine's side -----------------------------------------------------------------------

    def __call__(self, name: str, doc: Document) -> None:
        """Take in a document of the session; it is not changed."""
        try:
            self._accept(name, doc)
        except Exception:  # a display or analysis must never end a run
            log.exception("analysis %s: %s document not taken in", self.name, name)

    def _accept(self, name: str, doc: Document) -> None:
        uid = self._ids.of(name, doc)
        if name == "start" and doc.get("purpose") != "analysis":
            self._raws[str(uid)] = RawRun(doc, self._required, keep_values=False)
            self._event_keys[str(uid)] = frozenset(
                key for stage in self.stages.values() for key in stage.event_keys(doc)
            )
        raw = self._raws.get(str(uid))
        if raw is None or not self._is_needed(raw, name, doc):
            return
        raw(name, doc)
        if name == "descriptor" and any(each.table is not None for each in raw.streams.values()):
            self._present = raw
        if name == "stop":
            del self._raws[raw.uid], self._event_keys[raw.uid]
        if name == "event":
            stream = raw.stream_of(doc)
            keys = self._event_keys[raw.uid].union(stream.event_keys if stream else ())
            data = {key: doc["data"][key] for key in keys if key in doc["data"]}
            doc = {**doc, "data": data, "timestamps": {}}
        if not self._keeper.put(name, doc, raw):
            self._raws.pop(raw.uid, None)
            self._event_keys.pop(raw.uid, None)
            self._keeper.abandon(raw.uid, "the worker did not take the documents in time")

    def _is_needed(self, raw: RawRun, name: str, doc: Document) -> bool:
        if raw.wants(name, doc):
            return True
        if name == "event":
            return not self._event_keys[raw.uid].isdisjoint(doc["data"])
        return bool(self.stages) and (name != "event_page" or bool(self._event_keys[raw.uid]))

    def put_question(self, frames: int) -> int:
        """Ask the second-stage analyses about the present run, its first `frames` frames.

        Returns
        -------
        int
            Number of the question.
        """
        number = next(self._questions)
        if self._present is not None:
            question = {"raw_uid": self._present.uid, "number": number, "frames": frames}
            self._keeper.put("ask", question, self._present)
        return number

    # What a session asks ------------------------------------------------------------------------

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the worker has compiled and loaded what it needs.

        Raises
        ------
        TimeoutError
            If it has not.
        """
        if not self._keeper.ready.wait(timeout_s):
            raise TimeoutError(f"analysis {self.name}: no worker is ready after {timeout_s} s")

    @property
    def worker_pid(self) -> int | None:
        """Process id of the present worker."""
        return self._keeper.worker_pid

    def close(self) -> None:
        """End the worker; a run in progress gets an interrupted derived run."""
        self._keeper.close()

    def kill(self) -> None:
        """Kill the worker of an analysis that was told to close and takes too long."""
        self._keeper.kill()

    def report(self, uid: str, stream: str, **facts: Any) -> Progress:
        """Take in what the worker has reported, of second-stage analyses also."""
        second = facts.pop("second", {})
        now = super().report(uid, stream, **facts)
        shared = {key: facts[key] for key in ("reached", "done") if key in facts}
        failed = {"error": facts["error"]} if facts.get("error") else {}
        for name, each in self.second.items():
            each.report(uid, stream, **{**shared, **second.get(name, {}), **failed})
        return now


class SecondReports(Reports):
    """Progress and results of a second-stage analysis.

    Parameters
    ----------
    name
        Of the analysis.
    first
        The live analysis whose rows it works on.
    """

    def __init__(self, name: str, first: LiveAnalysis) -> None:
        super().__init__(name, first.stages[name].analysis)
        self._first = first

    @property
    def announced(self) -> int:
        """Frames of the present raw run that its documents have told of."""
        return self._first.announced

    @property
    def raw_uid(self) -> str | None:
        """Uid of the present (or last) raw run that has the data keys of the first analysis."""
        return self._first.raw_uid

    def ask(self, frames: int) -> int:
        """Ask for the result of the first `frames` frames, and of all documents until now."""
        return self._first.put_question(frames)

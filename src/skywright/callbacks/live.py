"""A document callback that runs an analysis in a process of its own, and says how far it is."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skywright.analysis import name_of
from skywright.analysis.named import is_configured_by_devices, make_analysis
from skywright.callbacks.derived import IDENTITY
from skywright.callbacks.follow import Document, RawRun, RunIds, Wanted
from skywright.callbacks.keeper import Keeper, Patience
from skywright.callbacks.worker import Limits
from skywright.errors import DataError
from skywright.files.columns import ColumnReader

REMEMBERED_RUNS = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far the analysis of a stream of a raw run is.

    Parameters
    ----------
    raw_uid, derived_uid
        The runs; `derived_uid` changes when the worker died and another began again.
    stream
        Of the raw run; empty for a run that has no fitting stream.
    reached
        Frames done (or skipped), from the first.
    rows, columns
        Frames measured, and the file with a row for each.
    result
        Scalars of the latest result, and the counts of `skywright.callbacks.derived.COUNTS`.
    time
        When it came, unix seconds.
    done
        Nothing more will come.
    error
        Why there is no (further) result; "" if all is well.
    """

    raw_uid: str
    stream: str = ""
    derived_uid: str | None = None
    reached: int = 0
    rows: int = 0
    columns: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    time: float = 0.0
    done: bool = False
    error: str = ""


@dataclass
class _Told:
    """What the worker has told of a raw run."""

    streams: dict[str, Progress] = field(default_factory=dict)
    over: bool = False
    error: str = ""


class LiveAnalysis:
    """Subscribe it to the RunEngine after the journal; it never raises and never waits.

    Each stream of a raw run that has the wanted data keys gets a derived run, others nothing.
    What a session asks without naming a stream is of the run's first. When the worker dies another
    begins the present runs again, from their first frame, in new derived runs.

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
    ) -> None:
        self.analysis = make_analysis(name, parameters)
        self.name = name
        limits = limits or Limits()
        self._wanted = Wanted.of(self.analysis, keys or {})
        self._ids = RunIds()
        self._raws: dict[str, RawRun] = {}
        self._present: RawRun | None = None
        self._changed = threading.Condition()
        self._told: dict[str, _Told] = {}
        self._callbacks: list[Callable[[Progress], None]] = []
        # Defaults must not hold against what a run's configuration says.
        given = (parameters or {}) if is_configured_by_devices(name) else self.analysis.parameters
        arguments = [
            *(name, "--parameters", json.dumps(given)),
            *("--keys", json.dumps(dict(keys or {}))),
            *("--journal", str(journal), "--assets", str(assets)),
            *("--max-behind", str(limits.max_behind_s), "--catch-up", str(limits.catch_up_s)),
        ]
        self._keeper = Keeper(name, arguments, journal, patience or Patience(), self._tell)

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
            self._raws[str(uid)] = RawRun(doc, self._wanted, keep_values=False)
        raw = self._raws.get(str(uid))
        if raw is None or not raw.wants(name, doc):
            return
        raw(name, doc)
        if name == "descriptor" and any(each.table is not None for each in raw.streams.values()):
            self._present = raw
        if name == "stop":
            del self._raws[raw.uid]
        if name == "event" and (stream := raw.stream_of(doc)) is not None:
            data = {key: doc["data"][key] for key in stream.event_keys if key in doc["data"]}
            doc = {**doc, "data": data, "timestamps": {}}
        if not self._keeper.put(name, doc, raw):
            self._raws.pop(raw.uid, None)
            error = "the worker did not take the documents in time"
            for stream_name in (*raw.streams, ""):
                self._tell(raw.uid, stream_name, done=True, error=error)

    # What a session asks ------------------------------------------------------------------------

    @property
    def announced(self) -> int:
        """Frames of the present raw run that its documents have told of."""
        streams = self._present.streams.values() if self._present is not None else ()
        return next((each.table.announced() for each in streams if each.table is not None), 0)

    @property
    def raw_uid(self) -> str | None:
        """Uid of the present (or last) raw run that has the wanted data keys."""
        return self._present.uid if self._present is not None else None

    def progress(self, raw_uid: str | None = None, stream: str | None = None) -> Progress:
        """Return how far the analysis of a raw run is.

        Parameters
        ----------
        raw_uid
            The raw run; by default the present one.
        stream
            Of the run; by default its first that fits.
        """
        with self._changed:
            return self._progress_of(raw_uid or self.raw_uid or "", stream)

    def streams(self, raw_uid: str | None = None) -> list[str]:
        """Return the names of the streams of a raw run that are analyzed, the first one first."""
        with self._changed:
            return list(self._told.get(raw_uid or self.raw_uid or "", _Told()).streams)

    def _progress_of(self, uid: str, stream: str | None) -> Progress:
        told = self._told.get(uid, _Told())
        if stream is not None:
            return told.streams.get(stream, Progress(uid, stream))
        none = Progress(uid, done=told.over, error=told.error)
        return next(iter(told.streams.values()), none)

    def subscribe(self, callback: Callable[[Progress], None]) -> Callable[[], None]:
        """Call `callback`, in another thread, at each progress of a run's first stream.

        Returns what ends that.
        """
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            with suppress(ValueError):  # a second call does nothing
                self._callbacks.remove(callback)

        return unsubscribe

    def wait(
        self,
        frames: int | None = None,
        *,
        raw_uid: str | None = None,
        stream: str | None = None,
        timeout_s: float = 60.0,
    ) -> Progress:
        """Wait until the analysis has reached frame number N, or is done.

        Parameters
        ----------
        frames
            Frames of the stream; None waits until all derived runs of the raw run are closed.
        raw_uid
            The raw run; by default the present one.
        stream
            Of the run; by default its first that fits.
        timeout_s
            Limit.

        Raises
        ------
        TimeoutError
            Naming the analysis and how far it is.
        """
        uid = raw_uid or self.raw_uid or ""

        def is_there() -> bool:
            if frames is None:
                return self._told.get(uid, _Told()).over
            now = self._progress_of(uid, stream)
            return now.done or now.reached >= frames

        with self._changed:
            is_in_time = self._changed.wait_for(is_there, timeout_s)
            now = self._progress_of(uid, stream)
            if not is_in_time:
                raise TimeoutError(
                    f"analysis {self.name}: reached {now.reached} frames of run {uid[:8]} in "
                    f"{timeout_s} s, expected {'the end' if frames is None else frames}"
                )
            return now

    def columns(
        self,
        frames: int | None = None,
        *,
        raw_uid: str | None = None,
        stream: str | None = None,
        timeout_s: float = 10.0,
    ) -> dict[str, NDArray[Any]]:
        """Return the results per frame, once the analysis has reached N frames.

        Parameters
        ----------
        frames, raw_uid, stream, timeout_s
            As of `wait`.

        Returns
        -------
        dict
            identity, frame_time and the analysis's columns, (n, ...) each, in order of the file;
            fewer than `frames` where some were skipped.

        Raises
        ------
        TimeoutError
            If it takes longer.
        DataError
            If there is no derived run.
        """
        end = time.monotonic() + timeout_s
        now = self.wait(frames, raw_uid=raw_uid, stream=stream, timeout_s=timeout_s)
        if not now.columns:
            raise DataError(f"analysis {self.name}: no columns of run {now.raw_uid}: {now.error}")
        names = ["identity", "frame_time", *map(name_of, self.analysis.columns)]
        pause = threading.Event()
        with ColumnReader(Path(now.columns), IDENTITY.path) as reader:
            while reader.count() < now.rows:
                if time.monotonic() > end:
                    raise TimeoutError(
                        f"{now.columns}: {reader.count()} rows of {now.rows} in {timeout_s} s"
                    )
                pause.wait(0.01)
            return {name: reader.read(f"/entry/{name}", 0, now.rows) for name in names}

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

    def _tell(self, uid: str, stream: str, **facts: Any) -> None:
        with self._changed:
            told = self._told.pop(uid, _Told())
            self._told[uid] = told
            before = told.streams.get(stream, Progress(uid, stream))
            facts["result"] = facts.get("result") or before.result
            now = replace(before, time=time.time(), **facts)
            if stream:
                told.streams[stream] = now
            else:
                told.over, told.error = now.done, now.error
            while len(self._told) > REMEMBERED_RUNS:
                self._told.pop(next(iter(self._told)))
            self._changed.notify_all()
            first = next(iter(told.streams), "")
        if now.error and now.error != before.error and (stream or not first):
            log.error("analysis %s of run %s %s: %s", self.name, uid, stream, now.error)
        if stream != first:
            return
        for callback in list(self._callbacks):
            try:
                callback(now)
            except Exception:  # a display must not end the analysis
                log.exception("analysis %s: a subscriber failed", self.name)

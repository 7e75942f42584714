"""What the worker of a live analysis has reported: how far each stream of each run is."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skywright.analysis import Analysis
from skywright.callbacks.derived import IDENTITY
from skywright.callbacks.raw_run import RawRun
from skywright.errors import DataError
from skywright.files.columns import ColumnReader
from skywright.waiting import wait_until

REMEMBERED_RUNS = 256
"""Number of raw runs, the latest, whose reports are kept: a few kB each."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far the analysis of a stream of a raw run is.

    Parameters
    ----------
    raw_uid, derived_uid
        The runs; `derived_uid` changes when the worker died and another began again.
    stream
        Name of the stream; empty for the run as a whole.
    reached
        Number of frames analyzed or skipped, from the first.
    rows, columns_path
        Number of frames measured, and the path of the file with a row for each.
    result
        Scalars of the latest result, and the counts of `skywright.callbacks.derived.COUNTS`.
    time
        Time of the report, unix s.
    done
        Nothing more will come.
    error, error_type
        Why there is no (further) result, and the class of the exception; "" if all is well.
    answered
        For a second-stage analysis: number of the last request (`Reports.request_result`) that
        `result` answers.
    """

    raw_uid: str
    stream: str = ""
    derived_uid: str | None = None
    reached: int = 0
    rows: int = 0
    columns_path: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    time: float = 0.0
    done: bool = False
    error: str = ""
    error_type: str = ""
    answered: int = 0


class Reports:
    """Progress and results of a live analysis, for devices, plans and displays.

    Parameters
    ----------
    name
        Name of the analysis.
    analysis
        The analysis or its class: its results, columns and version.
    """

    def __init__(self, name: str, analysis: Analysis[Any] | type[Analysis[Any]]) -> None:
        self.name = name
        self.analysis = analysis
        self.present_run: RawRun | None = None
        """Newest raw run that has the required data keys."""
        self._changed = threading.Condition()
        self._runs: dict[str, dict[str, Progress]] = {}
        """Progress by uid of the raw run and name of the stream."""
        self._callbacks: list[Callable[[Progress], None]] = []

    @property
    def announced(self) -> int:
        """Number of frames in the documents of the present raw run, of its first usable stream."""
        run = self.present_run
        name = run.first_usable if run is not None else ""
        return run.streams[name].announced() if run is not None and name else 0

    @property
    def unusable(self) -> str:
        """Why no stream of the present raw run can be analyzed; "" if one can, or none fits."""
        streams = self.present_run.streams.values() if self.present_run is not None else ()
        errors = [each.error for each in streams]
        return "; ".join(errors) if all(errors) else ""

    @property
    def is_starting(self) -> bool:
        """Whether the worker is not ready for frames yet: it loads or compiles what it needs."""
        return False

    @property
    def raw_uid(self) -> str | None:
        """Uid of the present (or last) raw run that has the required data keys."""
        return self.present_run.uid if self.present_run is not None else None

    @property
    def is_running(self) -> bool:
        """Whether the raw run of `raw_uid` is in progress."""
        return self.present_run is not None and self.present_run.stop is None

    def request_result(self, frames: int) -> int:
        """Request the result of the first `frames` frames of the present run; does not wait.

        Returns
        -------
        int
            Number of the request: `Progress.answered` reaches it when the result is there. 0 for a
            first-stage analysis, which reports a result after each batch without a request.
        """
        return 0

    def progress(self, raw_uid: str | None = None, stream: str | None = None) -> Progress:
        """Return how far the analysis of a raw run is.

        Parameters
        ----------
        raw_uid
            The raw run; by default the present one.
        stream
            Name of its stream; by default the first usable one.
        """
        with self._changed:
            return self._progress_of(raw_uid or self.raw_uid or "", stream)

    def _progress_of(self, uid: str, stream: str | None) -> Progress:
        name = self._first_stream(uid) if stream is None else stream
        return self._runs.get(uid, {}).get(name, Progress(uid, name))

    def _first_stream(self, uid: str) -> str:
        """Return the name of the first usable stream of a run; "" if none is known.

        Of an earlier run than the present one it is the first stream that was reported.
        """
        run = self.present_run
        usable = run.first_usable if run is not None and run.uid == uid else ""
        return usable or next(filter(None, self._runs.get(uid, {})), "")

    def subscribe(self, callback: Callable[[Progress], None]) -> Callable[[], None]:
        """Call `callback`, in another thread, at each progress of a run's first usable stream.

        Returns a function that ends the subscription.
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
        """Wait until `frames` frames are analyzed or skipped, or the analysis is done.

        Parameters
        ----------
        frames
            Number of frames of the stream; None: wait until all derived runs of the raw run are
            closed.
        raw_uid
            The raw run; by default the present one.
        stream
            Name of its stream; by default the first usable one.
        timeout_s
            Time limit, s.

        Raises
        ------
        TimeoutError
            If it takes longer; the message names the analysis and how far it is.
        """
        uid = raw_uid or self.raw_uid or ""

        def is_there() -> bool:
            if frames is None:
                return self._progress_of(uid, "").done
            progress = self._progress_of(uid, stream)
            return progress.done or progress.reached >= frames

        with self._changed:
            is_in_time = self._changed.wait_for(is_there, timeout_s)
            progress = self._progress_of(uid, stream)
            if not is_in_time:
                raise TimeoutError(
                    f"analysis {self.name}: reached {progress.reached} frames of run {uid[:8]} in "
                    f"{timeout_s} s, expected {'the end' if frames is None else frames}"
                )
            return progress

    @property
    def unfinished(self) -> list[str]:
        """Uids of raw runs whose derived runs are not all closed."""
        with self._changed:
            present = self.raw_uid
            open_runs = [uid for uid in self._runs if not self._progress_of(uid, "").done]
            if present is not None and present not in self._runs:
                open_runs.append(present)
            return open_runs

    def wait_for_all(self, timeout_s: float) -> bool:
        """Wait until the derived runs of all raw runs are closed.

        Parameters
        ----------
        timeout_s
            Time limit, s.

        Returns
        -------
        bool
            Whether they are.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self.unfinished, timeout_s)

    def columns(
        self,
        frames: int | None = None,
        *,
        raw_uid: str | None = None,
        stream: str | None = None,
        timeout_s: float = 10.0,
    ) -> dict[str, NDArray[Any]]:
        """Return the results per frame, once `frames` frames are analyzed or skipped.

        Parameters
        ----------
        frames, raw_uid, stream, timeout_s
            As for `wait`.

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
        progress = self.wait(frames, raw_uid=raw_uid, stream=stream, timeout_s=timeout_s)
        if not progress.columns_path:
            raise DataError(
                f"analysis {self.name}: no columns of run {progress.raw_uid}: {progress.error}"
            )
        names = ["identity", "frame_time", *(column.name for column in self.analysis.columns)]
        path = Path(progress.columns_path)
        with ColumnReader(path, IDENTITY.path) as reader:
            in_file = wait_until(
                lambda: reader.count() >= progress.rows, end - time.monotonic(), 0.01
            )
            if not in_file:
                raise TimeoutError(
                    f"{path}: {reader.count()} rows of {progress.rows} in {timeout_s} s"
                )
            data = {name: reader.read(f"/entry/{name}", 0, progress.rows) for name in names}
        # A column that another reader of this process has open may lack the newest rows
        count = min(map(len, data.values()))
        return {name: rows[:count] for name, rows in data.items()}

    def accept_report(self, uid: str, stream: str, **facts: Any) -> Progress:
        """Store what the worker has reported, and call the subscribers.

        Parameters
        ----------
        uid
            Uid of the raw run.
        stream
            Name of its stream; empty for a report on the run as a whole.
        **facts
            Fields of `Progress` that have changed.
        """
        with self._changed:
            reported = self._runs[uid] = self._runs.pop(uid, {})  # now the last to be dropped
            before = reported.get(stream, Progress(uid, stream))
            facts["result"] = facts.get("result") or before.result
            progress = reported[stream] = replace(before, time=time.time(), **facts)
            while len(self._runs) > REMEMBERED_RUNS:
                self._runs.pop(next(iter(self._runs)))
            self._changed.notify_all()
            first = self._first_stream(uid)
        # The error of a whole run is reported for each of its streams too: log it once
        if progress.error and progress.error != before.error and (stream or not first):
            log.error("analysis %s of run %s %s: %s", self.name, uid, stream, progress.error)
        if stream != first:
            return progress
        for callback in list(self._callbacks):
            try:
                callback(progress)
            except Exception:  # a display must not end the analysis
                log.exception("analysis %s: a subscriber failed", self.name)
        return progress

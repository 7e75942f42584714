"""Analyzes one stream of a raw run batch by batch, and writes its derived runs."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from skywright.analysis import Analysis, Batch
from skywright.analysis.frames import FrameReader, FrameTable, frames_to_draw
from skywright.callbacks.derived import DerivedRun, failure_reason
from skywright.callbacks.drawing import attempt, until_drawn
from skywright.callbacks.pace import DECISION_LIMIT, Pace, choose_positions
from skywright.callbacks.raw_run import RawStream
from skywright.callbacks.second_analysis import SecondAnalysis
from skywright.callbacks.stream_documents import Emit
from skywright.errors import DataError, SkywrightError, is_disk_full

UNFLUSHED_POLL_S = 0.005
"""Period of checks for frames that are announced but not yet complete in their file, s."""
MISSING_FILE_POLL_S = 0.05
"""Period of checks for a file that is announced but cannot be opened, s."""
DRAWING_POLL_S = 0.05
"""Period of checks whether the pictures are drawn, s."""
DRAWING_LIMIT_S = 120.0
"""Time limit for the pictures of a run, s; after it the derived runs end without them."""

Returned = TypeVar("Returned")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BacklogLimits:
    """Limits of the backlog of a live analysis.

    Parameters
    ----------
    max_behind_s
        Maximum time that the analysis of the waiting frames may take, s. Frames that cannot be
        analyzed within this time are skipped, evenly spread, and counted. The limit does
        not hold for frames that were waiting when the first batch began. A `decision_limit_s` in
        the start document replaces this limit, for all frames.
    catch_up_s
        Time limit, s, for the remaining frames after the stop document. An analysis that skips none
        (`Analysis.skips`) goes on until it has analyzed all frames that are in their file.
    """

    max_behind_s: float = 10.0
    catch_up_s: float = 60.0


def begin_derived(
    raw_stream: RawStream,
    make: Callable[[Mapping[str, Any]], Analysis[Any]],
    emit: Emit,
    assets: Path,
) -> tuple[DerivedRun, SkywrightError | None]:
    """Begin the derived run of a stream; return it, and the error if no analysis is possible.

    If the analysis refuses the configuration, the derived run begins with an empty one, so that its
    stop document can have the reason.
    """
    failure: SkywrightError | None = DataError(raw_stream.error) if raw_stream.error else None
    try:
        analysis = make(raw_stream.configuration)
    except SkywrightError as error:
        analysis, failure = make({}), error
    start, keys, name = raw_stream.run.start, raw_stream.keys, raw_stream.name
    derived = DerivedRun(analysis, start, emit, assets, keys, stream=name)
    return derived, failure


class StreamAnalysis:
    """One stream of a raw run, and the derived run that its analysis writes.

    `step` analyzes batches. When the raw run has ended and all frames are analyzed or skipped, or
    the time for them is over, it calls `_begin_closing`, which starts the drawing of pictures. Each
    `close_step` then continues the generator `_close_all`, which closes the second-stage runs and,
    when the pictures are drawn, the derived run. An error (`_guarded`) or `interrupt` closes the
    derived run at once.

    Parameters
    ----------
    raw_stream
        The stream.
    make
        Returns a new analysis, given the configuration of the stream's devices.
    emit
        Called with each derived document.
    assets
        Root directory of assets.
    limits
        Limits of the backlog.
    picture_thread
        Thread that draws the pictures, so that plans do not wait for them.
    """

    def __init__(
        self,
        raw_stream: RawStream,
        make: Callable[[Mapping[str, Any]], Analysis[Any]],
        emit: Emit,
        assets: Path,
        limits: BacklogLimits,
        picture_thread: Executor,
    ) -> None:
        self.raw_stream = raw_stream
        self.raw = raw_stream.run
        self.second: Sequence[SecondAnalysis] = ()
        """Second-stage analyses over the rows of this one."""
        self.reached = 0
        """Number of frames analyzed or skipped."""
        self.derived: DerivedRun | None = None
        self.exit_status = ""
        """Exit status of the derived run; "" while it is open."""
        self.reason = ""
        """Reason of an exit status other than success."""
        self.error_type = ""
        """Class of the exception that is the reason; "" if it is none."""
        self._make = make
        self._emit = emit
        self._assets = assets
        self._limits = limits
        self._picture_thread = picture_thread
        self._draw_until = math.inf
        self._unreadable = ""
        """Why the file cannot be read at present; "" if it can."""
        self._first_backlog_end: int | None = None
        """Number of frames whose documents had come when the first batch began;
        `max_behind_s` does not hold for them. None before that batch."""
        self._status_after_step = ""
        """Exit status at the end of the last step."""
        # These times are of the monotonic clock, s
        self._deadline: float | None = None  # for the remaining frames, after the stop document
        self._decision = (0, 0.0)  # number of frames of the present decision, and its deadline
        self._busy_since: float | None = None  # end of the last batch, if more frames were there
        self._pace = Pace()
        self._closing: Iterator[None] | None = None
        self._reader = FrameReader(raw_stream.table or FrameTable())
        self._scalars: dict[str, Any] = {}
        self._guarded(self._begin)

    def start_deadline(self) -> None:
        """Start the time limit for the remaining frames, because the raw run has ended."""
        self._deadline = time.monotonic() + self._limits.catch_up_s

    def start_decision(self, frames: int) -> None:
        """Start the time limit of a decision on the first `frames` frames, for all their batches.

        Without ``decision_limit_s`` in the start document of the raw run, `max_behind_s` holds.
        """
        limit_s = self.raw.start.get(DECISION_LIMIT)
        if isinstance(limit_s, int | float):
            self._decision = (frames, time.monotonic() + limit_s)

    def step(self) -> bool:
        """Analyze a batch, answer second-stage requests; return whether anything was done."""
        before = self.reached
        takes_frames = not self.exit_status and self.derived is not None and self._closing is None
        if takes_frames:
            self._guarded(self._analyze)
        answers = [each.answer(self._reached()) for each in self.second]
        is_over = takes_frames and self.raw.stop is not None and not self.exit_status
        if is_over and self._guarded(self._is_done):
            self._guarded(self._begin_closing)
        # The derived run may have ended in this step, or in `write_due` after the last step
        has_ended = self.exit_status != self._status_after_step
        self._status_after_step = self.exit_status
        return self.reached > before or has_ended or any(answers)

    def close_step(self) -> bool:
        """Continue to close the derived runs; return False if nothing can be done now."""
        if self._closing is None or self.exit_status:
            return False
        closing, end = self._closing, object()
        # `next` returns None while the generator waits for pictures, and `end` when it has ended
        state = self._guarded(lambda: next(closing, end))
        return state is not None or bool(self.exit_status)

    def _reached(self) -> float:
        """Return the number of frames done; infinity when no more will be analyzed."""
        return math.inf if self.exit_status else self.reached

    def interrupt(self, reason: str) -> None:
        """End the derived run now, because the session ends or the raw run is abandoned.

        If the closing has not begun (`_begin_closing`), second-stage analyses write no derived run.
        """
        self._set_picture_deadline(0.0)
        self.close_step()
        if self.derived is not None and not self.exit_status:
            self._guarded(lambda: self._close("abort", f"interrupted: {reason}"))

    def write_due(self) -> float | None:
        """Write and emit what is due.

        Returns
        -------
        float or None
            Seconds until more is due to be written, or until `step` or `close_step` should look
            again for frames or pictures; None if there is nothing to wait for.
        """
        derived = self.derived
        if self.exit_status or derived is None:
            return None
        due = self._guarded(derived.tick)
        if self.exit_status:  # `tick` has failed; the next step reports it
            return 0.0
        times = [] if due is None else [due]
        if self._closing is not None:
            times.append(DRAWING_POLL_S)
        # Announced frames that are not complete in their file, or whose event has not come
        if self._reader.table.announced() > self.reached:
            times.append(MISSING_FILE_POLL_S if self._unreadable else UNFLUSHED_POLL_S)
        return min(times, default=None)

    @property
    def ended(self) -> bool:
        """Whether the raw run has stopped and the derived run has ended."""
        return self.raw.stop is not None and bool(self.exit_status)

    def take_progress(self) -> dict[str, Any]:
        """Return fields of `reports.Progress`, and ``second``.

        That has, for each second-stage analysis by name, the fields that are new since the last
        call.
        """
        derived = self.derived
        return {
            "raw_uid": self.raw.uid,
            "stream": self.raw_stream.name,
            "derived_uid": derived.uid if derived else None,
            "reached": self.reached,
            "rows": derived.rows if derived else 0,
            "columns_path": str(derived.columns_path) if derived else "",
            "result": self._scalars,
            "error": self.reason,
            "error_type": self.error_type,
            "second": {each.name: each.take_facts() for each in self.second},
        }

    def _guarded(self, action: Callable[[], Returned]) -> Returned | None:
        """Return the value of `action`; None if it raised.

        An error ends the derived runs of this stream only; those of the second stage are written
        with the rows until then.
        """
        try:
            return action()
        except Exception as error:  # an analysis may raise anything; the worker goes on
            log.error(
                "the analysis failed on run %s, stream %s: %s",
                self.raw.uid,
                self.raw_stream.name,
                error,
                exc_info=not is_disk_full(error),
            )
            self.error_type = type(error).__name__
            self.exit_status, self.reason = "fail", failure_reason(error)
            self._set_picture_deadline(0.0)
            for _ in self._finish_second():  # the deadline is 0, so it does not wait for pictures
                pass
            try:
                if self.derived is not None:
                    self.derived.fail(error)
            except Exception:  # e.g. disk full; `close` has emitted the stop document all the same
                log.exception("the derived run of %s cannot be closed", self.raw.uid)
            self._reader.close()
            return None

    def _begin(self) -> None:
        self.derived, failure = begin_derived(self.raw_stream, self._make, self._emit, self._assets)
        if failure is not None:
            raise failure  # `_guarded` closes the derived run with this reason

    def _analyze(self) -> None:
        derived, reader = self.derived, self._reader
        if self.raw_stream.error:
            raise DataError(self.raw_stream.error)
        assert derived is not None
        complete = self._complete_until()
        if complete <= self.reached:
            return
        stop = self._readable(complete)
        if stop <= self.reached:
            return
        if self._first_backlog_end is None:
            self._first_backlog_end = complete
        affordable = self._affordable() if derived.analysis.skips else math.inf
        chosen = choose_positions(self.reached, stop, affordable)[: self._pace.batch_frames]
        begun = self._busy_since or time.monotonic()
        batch = reader.pick(chosen)
        derived.missing += len(chosen) - len(batch)
        derived.dropped += chosen[-1] + 1 - self.reached - len(chosen)
        rows = derived.add(batch)
        for each in self.second:
            each.add(Batch(batch.identities, batch.times, rows))
        self.reached = chosen[-1] + 1
        self._scalars = derived.scalars()
        # With pictures, `_begin_closing` must read these frames again
        if not derived.analysis.pictures:
            reader.table.forget(self.reached)
        now = time.monotonic()
        self._pace.add_measurement(len(batch), now - begun, batch.nbytes)
        # The time between two batches counts too: documents are read and rows are written in it
        self._busy_since = now if self.reached < stop else None

    def _complete_until(self) -> int:
        """Return the position up to which the documents of the frames have come.

        After the stop document no event comes: frames without one are missing then.
        """
        table = self._reader.table
        has_stopped = self.raw.stop is not None
        return table.announced() if has_stopped else table.values_known_until(self.reached)

    def _affordable(self) -> float:
        """Return the number of waiting frames that can be analyzed in time."""
        if self._deadline is not None:
            return self._pace.affordable(self._deadline - time.monotonic())
        if isinstance(limit_s := self.raw.start.get(DECISION_LIMIT), int | float):
            frames, until = self._decision
            left_s = until - time.monotonic() if self.reached < frames else limit_s
            return self._pace.affordable(left_s)
        if self.reached < (self._first_backlog_end or 0):
            return math.inf
        return self._pace.affordable(self._limits.max_behind_s)

    def _readable(self, stop: int) -> int:
        try:
            readable = self._reader.readable(self.reached, stop)
        except DataError as error:  # it may still appear; `_begin_closing` raises at the deadline
            if self._unreadable != str(error):
                log.info("run %s, stream %s: %s", self.raw.uid, self.raw_stream.name, error)
            self._unreadable = str(error)
            return self.reached
        self._unreadable = ""
        return readable

    def _is_past_deadline(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _is_done(self) -> bool:
        """Return whether no further frame will be analyzed; call it after the stop document."""
        reader = self._reader
        stop = self._complete_until()
        if stop <= self.reached:
            return True
        if not self._is_past_deadline():
            return False
        # An analysis that skips no frame goes on with those that are in their file
        assert self.derived is not None
        return self.derived.analysis.skips or reader.readable(self.reached, stop) <= self.reached

    def _begin_closing(self) -> None:
        """Count the frames that are not analyzed, start the drawing, begin to close the runs."""
        derived, reader = self.derived, self._reader
        table = reader.table
        assert derived is not None
        announced = table.announced()
        readable = reader.readable(self.reached, announced)
        skipped = sum(map(table.has_values, table.sequence(self.reached, readable)))
        derived.dropped += skipped  # they could be read, but the time was over
        derived.missing += announced - self.reached - skipped
        self.reached = announced
        frames = attempt(frames_to_draw, derived.analysis, reader, self.reached)
        drawn = (
            None
            if frames is None
            else self._picture_thread.submit(attempt, derived.analysis.draw, frames)
        )
        self._set_picture_deadline(time.monotonic() + DRAWING_LIMIT_S)
        self._closing = self._close_all(drawn)

    def _set_picture_deadline(self, until: float) -> None:
        """Set the time, s of the monotonic clock, after which the runs end without pictures."""
        self._draw_until = until
        for each in self.second:
            each.draw_until = until

    def _close_all(self, drawn: "Future[Mapping[str, bytes] | None] | None") -> Iterator[None]:
        """Close the derived runs, those of the second stage first; yield while pictures are drawn.

        If the worker dies before the last one is closed, the next worker repeats all of them.
        """
        yield from self._finish_second()
        pictures = None
        if drawn is not None:
            what = f"run {self.raw.uid}, stream {self.raw_stream.name}"
            pictures = yield from until_drawn(drawn, lambda: self._draw_until, what)
        self._close("success", "", pictures)

    def _close(
        self,
        exit_status: Literal["success", "abort"],
        reason: str,
        pictures: Mapping[str, bytes] | None = None,
    ) -> None:
        assert self.derived is not None
        self.derived.close(exit_status, reason, pictures)
        self._scalars = self.derived.scalars()
        self.exit_status, self.reason = exit_status, reason
        self._reader.close()

    def _finish_second(self) -> Iterator[None]:
        derived = self.derived
        inputs = {derived.analysis.name: derived.uid} if derived is not None else {}
        for each in self.second:
            yield from each.finish_steps(self.raw_stream.name, inputs)

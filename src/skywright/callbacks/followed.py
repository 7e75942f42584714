"""One stream of a raw run, analyzed batch by batch into its derived runs."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skywright.analysis import Analysis, Batch
from skywright.callbacks.derived import DerivedRun, Emit
from skywright.callbacks.follow import RawStream
from skywright.callbacks.pace import DECISION_LIMIT, Pace, choose
from skywright.callbacks.second import FollowedSecond
from skywright.errors import DataError, SkywrightError
from skywright.files.frames import FrameReader, draw_pictures

UNFLUSHED_POLL_S = 0.005
"""Wait for frames that are announced and not yet whole in their file."""
DRAWING_POLL_S = 0.05

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
        self._closing: Iterator[None] | None = None
        self._reader: FrameReader | None = None
        self._scalars: dict[str, Any] = {}
        self._guarded(self._begin)

    def raw_stopped(self) -> None:
        """Take in that the raw run has ended: what is left must be done soon."""
        self._deadline = time.monotonic() + self._limits.catch_up_s

    def step(self) -> bool:
        """Analyze one batch, if there is one, and answer; True if it did something."""
        before = self.position
        is_open = not self.over and self.derived is not None and self._closing is None
        if is_open:
            self._guarded(self._analyze)
        answers = [each.answer(self._reached()) for each in self.second]
        if is_open and self.raw.run.stop is not None and not self.over and self._is_done():
            self._guarded(self._finish)
        return self.position > before or (is_open and bool(self.over)) or any(answers)

    def close_step(self) -> bool:
        """Go on with what is left when all frames are analyzed; False if that is to wait."""
        if self._closing is None or self.over:
            return False
        closing, waits = self._closing, False

        def go_on() -> None:
            nonlocal waits
            waits = next(closing, "end") is None

        self._guarded(go_on)
        return not waits

    def _reached(self) -> float:
        """Return how many frames need not be waited for any more."""
        return math.inf if self.over else self.position

    def interrupt(self, reason: str) -> None:
        """End the derived run, of a raw run that will not end or whose pictures take too long."""
        for each in self.second:
            each.draw_until = 0.0
        self.close_step()
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
        if self._closing is not None:
            times.append(DRAWING_POLL_S)
        if table.announced() > self.position:  # announced, and not whole in the file yet
            times.append(UNFLUSHED_POLL_S)
        return min(times, default=None)

    @property
    def is_closing(self) -> bool:
        """All frames are analyzed, and the derived runs are about to be closed."""
        return self._closing is not None and not self.over

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
            for each in self.second:
                each.draw_until = 0.0
            for _ in self._finishing_second():
                pass
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
        self._closing = self._close_all(draw_pictures(self._analysis, reader, self.position))

    def _close_all(self, pictures: Mapping[str, bytes]) -> Iterator[None]:
        """Close the derived runs, those of the second stage first; yield while one has to wait.

        So a worker that dies in between has done both, or does the first one again.
        """
        yield from self._finishing_second()
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
        self.over, self.reason = exit_status, reason
        self._release()

    def _finishing_second(self) -> Iterator[None]:
        inputs = {self._analysis.name: self.derived.uid} if self.derived is not None else {}
        for each in self.second:
            yield from each.finishing(self.raw.name, inputs)

    def _release(self) -> None:
        if self._reader is not None:
            self._reader.close()

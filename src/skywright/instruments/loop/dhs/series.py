"""The operations on series of pictures: collect, stop, and look at one of them again."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from skywright.errors import DataError, message_of
from skywright.instruments.loop.backends import Detector
from skywright.instruments.loop.dhs.collection import Collection
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.dhs.operations import integer, real
from skywright.instruments.loop.dhs.pictures import Saver, draw_sheet
from skywright.instruments.loop.dhs.recording import Recording, SeriesRecorder
from skywright.instruments.loop.dhs.replies import OperationError, fraction, number
from skywright.instruments.loop.dhs.server import Call, Operation
from skywright.instruments.loop.dhs.turn import (
    FittedSeries,
    draw_values,
    see_turn,
    write_files,
)
from skywright.instruments.loop.limits import find_limits
from skywright.instruments.loop.turn import describe_result

if TYPE_CHECKING:  # only needed with a catalog
    from skywright.instruments.loop.series_run import ExitStatus

logger = logging.getLogger(__name__)

T = TypeVar("T")

BEGIN_S = 14.0
"""Time for the begin of a recording, which waits for the end of the one before; scripts wait 15 s
for an answer."""
TURN_S = 2.0
"""The end of a series waits this long for the fit of its turn."""
SAVE_S, HANG_S = 1.0, 7.0
"""After the first the log says that the end of the DHS waits for what is being saved; so much later
it waits no longer: a disk that hangs may do so for ever, and a DHS is to end within 10 s."""
REPORT_S = 1.0
"""New pictures are reported to the catalog this often."""


class SeriesOperations:
    """One series at a time, and the last one; parameters as of `Dhs`, with what records.

    `ready` returns when pictures can be searched.
    """

    def __init__(
        self,
        recorder: SeriesRecorder,
        detector: Detector,
        config: DhsConfig,
        save_directory: Path | None,
        workers: int,
        ready: Callable[[Call], Awaitable[None]],
    ) -> None:
        self._recorder, self._ready = recorder, ready
        self._detector = detector
        self._config = config
        self._directory = save_directory
        self._call: Call | None = None
        """Of the series under way."""
        self._collection: Collection | None = None
        """Of the newest series."""
        self._last: Recording | None = None
        self._jobs = ThreadPoolExecutor(1, thread_name_prefix="series")
        # For all series: a new thread takes megabytes that it does not give back.
        self._save = ThreadPoolExecutor(1, thread_name_prefix="save")
        # Not among the jobs: a fit may have to be compiled, and the next series has to begin.
        self._turns = ThreadPoolExecutor(1, thread_name_prefix="turn")
        self._is_closing = False
        self._search = ThreadPoolExecutor(workers, thread_name_prefix="loop-search")

    def state(self) -> dict[str, Any]:
        """Return how the series under way stands, or how the last one went, as `Dhs.state` does."""
        collection = self._collection
        if collection is None:
            return {"key": "", "running": False, "expected": 0}
        return {
            "key": collection.key,
            "running": self._call is not None,
            "expected": self._config.expected,
            **collection.fates(),
        }

    def table(self) -> dict[str, Operation]:
        """Return the operations by name."""
        return {
            "collectLoopImages": self.collect,
            "stopCollectLoopImages": self.stop_collect,
            "reboxLoopImage": self.rebox,
        }

    async def collect(self, call: Call) -> str:
        """``collectLoopImages [pinBaseSizeHint]`` -> a row for each picture, ``normal done``."""
        hint = real(call, 0, "pinBaseSizeHint", default=0.0)
        config = self._config
        saver = Saver(self._directory, call.key, self._save) if self._directory else None
        collection = Collection(self._detector, self._search, call.key, config, saver)
        # From here on a stop means this series, though the one before may still be ending.
        previous, self._call, self._collection = self._call, call, collection
        self._last = None  # of a series that fails nothing can be asked
        metadata = {
            "plan_name": call.start.name,
            "plan_args": {"pin_base_size_hint": hint},
            "operation": {"name": call.start.name, "handle": call.start.handle},
        }
        begun: Future[Recording] | None = None
        turn: Future[FittedSeries | None] | None = None
        status: tuple[ExitStatus, str] = "abort", ""
        try:
            if previous is not None and previous.task is not None:
                previous.abort("a new series has begun")
                await asyncio.wait([previous.task])
            await self._ready(call)  # not before: a stop meanwhile means this series
            if collection.is_stopped:
                return "normal done"
            begun = self._jobs.submit(self._begin, metadata, collection, saver)
            recording = await self._wait_for_begin(begun)
            if not collection.is_stopped:  # meanwhile: the recording may begin late
                await call.update("start_oscillation")
            collection.expect()
            await self._report(call, collection, recording)
            await asyncio.wrap_future(self._jobs.submit(recording.end))
            self._last = recording
            doubled = collection.counts["doubled"] > 0
            fit = partial(see_turn, recording.findings, config, doubled)
            turn = self._turns.submit(_guarded, fit, "the turn cannot be fitted")
            await self._report_turn(call, turn)
            call.note(collection.summary())
            status = "success", ""
        except asyncio.CancelledError as error:
            status = "abort", str(error)
            raise
        except Exception as error:
            status = "fail", str(error)
            raise
        finally:
            collection.close()
            if begun is not None:
                self._jobs.submit(self._end, begun, turn, saver, *status)
            if self._call is call:
                self._call = None
        return "normal done"

    async def stop_collect(self, call: Call) -> str:
        """``stopCollectLoopImages`` -> ``normal flag set``, whether or not a series runs."""
        if self._collection is not None:
            self._collection.stop()
        return "normal flag set"

    async def rebox(self, call: Call) -> str:
        """``reboxLoopImage index start end`` -> ``normal index minY maxY width``."""
        index = integer(call, 0, "index")
        start, end = real(call, 1, "start"), real(call, 2, "end")
        if start >= end:
            raise OperationError("bad_bracket")
        try:
            if self._last is None:
                raise DataError("no series, or the last one is not complete")
            gray = await asyncio.to_thread(self._last.picture, index)
        except DataError as error:
            logger.warning("%s: %s", call.key, error)
            raise OperationError("no_such_image") from error
        height, width = gray.shape
        limits = await asyncio.to_thread(find_limits, gray)
        if limits is None:
            raise OperationError("no_silhouette")
        upper, lower = limits.over(start * width - 0.5, end * width - 0.5)
        if math.isnan(upper):
            raise OperationError("no_silhouette between start and end")
        size = number((lower - upper) / height)
        return f"normal {index} {fraction(upper, height)} {fraction(lower, height)} {size}"

    async def close(self) -> None:
        """End what has begun, save pictures, forget the last series; no search is awaited.

        What is not saved after `SAVE_S` + `HANG_S` is lost.
        """
        self._is_closing = True
        self._search.shutdown(wait=False, cancel_futures=True)
        ending = asyncio.create_task(asyncio.to_thread(self._end_threads))
        saved = self._directory or self._recorder.scratch
        if not (await asyncio.wait([ending], timeout=SAVE_S))[0]:
            logger.warning("%s: waiting until all is saved", saved)
            if not (await asyncio.wait([ending], timeout=HANG_S))[0]:
                why = "a slow disk, or a fit that is still compiled"
                logger.error("%s: not all is saved (%s); the rest is lost", saved, why)
                return
        if (error := ending.exception()) is not None:
            logger.error("%s: not all is saved: %s", saved, message_of(error))

    def _end_threads(self) -> None:
        self._jobs.submit(bool).result()  # the jobs before it submit to `_turns`
        self._turns.shutdown()
        self._save.shutdown()
        self._jobs.submit(self._recorder.close).result()
        self._jobs.shutdown()

    async def _report(self, call: Call, collection: Collection, recording: Recording) -> None:
        """Send a row for each picture, in order, until the series is over."""
        reported = time.monotonic()
        while (finding := await collection.next()) is not None:
            recording.findings.append(finding)
            await call.update(finding.row)
            if time.monotonic() - reported > REPORT_S:
                reported = time.monotonic()
                self._jobs.submit(_guarded, recording.report)

    def _begin(
        self, metadata: Mapping[str, Any], collection: Collection, saver: Saver | None
    ) -> Recording:
        """Begin a recording; here, not in the event loop, a disk that hangs stops only series."""
        if saver is not None:
            saver.choose_directory()
        return self._recorder.begin(metadata, collection.take)

    async def _wait_for_begin(self, beginning: Future[Recording]) -> Recording:
        """Wait until a recording has begun, after the end of the series before."""
        try:
            async with asyncio.timeout(BEGIN_S):
                return await asyncio.wrap_future(beginning)
        except TimeoutError as error:
            if beginning.done() and not beginning.cancelled():  # a disk's
                raise
            raise OperationError(
                f"the recording has not begun after {BEGIN_S:g} s, is the disk slow?"
            ) from error

    async def _report_turn(self, call: Call, fitting: "Future[FittedSeries | None]") -> None:
        """Tell DCSS the angles of the turn; a fit that takes long does not keep it waiting."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TURN_S):
                turn = await asyncio.shield(asyncio.wrap_future(fitting))
            if turn is not None:
                call.note(describe_result(turn.result))

    def _end(
        self,
        begun: "Future[Recording]",
        fitting: "Future[FittedSeries | None] | None",
        saver: Saver | None,
        exit_status: "ExitStatus",
        reason: str,
    ) -> None:
        """End a recording; the last job of a series but for the end of a run with drawings.

        A series that is aborted before its turn is fitted gets no drawings: its run ends at once.
        """
        if begun.cancelled() or begun.exception() is not None:
            return
        recording = begun.result()
        _guarded(recording.end)
        end_run = partial(recording.end_run, exit_status, reason)
        if is_aborted := exit_status == "abort" and fitting is None:
            _guarded(end_run)
        directory = saver.directory if saver is not None and recording.findings else None
        end_later = None if is_aborted else end_run
        self._turns.submit(self._publish, recording, fitting, end_later, directory)

    def _publish(
        self,
        recording: Recording,
        fitting: "Future[FittedSeries | None] | None",
        end_run: Callable[..., None] | None,
        directory: Path | None,
    ) -> None:
        """Draw the pictures of a series, end its run with them, and write those of the turn.

        The next series does not wait for it, and the end of the DHS waits for the drawing under way
        at most.
        """

        def draw(job: Callable[[], dict[str, bytes]]) -> dict[str, bytes]:
            return {} if end_run is None or self._is_closing else _guarded(job) or {}

        # It was fitted on this thread before.
        turn = None if fitting is None else fitting.result()
        is_kept = recording.run is not None or directory is not None
        plots = draw(turn.draw) if turn is not None and is_kept else {}
        if end_run is not None:
            sheet = draw(partial(draw_sheet, recording)) if recording.run is not None else {}
            self._jobs.submit(_guarded, partial(end_run, turn, sheet, plots))
        if directory is not None:
            plots = plots | draw(partial(draw_values, recording.findings))
            _guarded(partial(write_files, recording.findings, directory, plots))


def _guarded(job: Callable[[], T], trouble: str = "the record is not complete") -> T | None:
    """Run a job; if a disk, a catalog or a fit fails, the log says so, and None is returned."""
    try:
        return job()
    except Exception:
        logger.exception("series: %s", trouble)
        return None

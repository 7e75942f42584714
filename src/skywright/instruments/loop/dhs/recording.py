"""Where a series goes: into the camera's file, into the catalog if there is one, onto the disk.

All of it but for drawings happens on one thread, job after job, so that the end of a series that
was aborted and the begin of the next cannot meet.
"""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Batch
from skywright.errors import DataError, SkywrightError
from skywright.files.areadetector import HEIGHT, IMAGE, WIDTH
from skywright.files.columns import ColumnReader
from skywright.instruments.loop.analysis import as_columns
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.dhs.collection import SKIPPED, Finding
from skywright.instruments.loop.layouts import IDENTITY
from skywright.instruments.loop.sources import SourceFrame

if TYPE_CHECKING:  # one imports this module, the other is only needed with a catalog
    from skywright.instruments.loop.dhs.turn import FittedSeries
    from skywright.instruments.loop.series_run import ExitStatus, SeriesRun

logger = logging.getLogger(__name__)

FLUSH_LIMIT_S = 10.0

BeginRun = Callable[[Mapping[str, Any]], "SeriesRun"]
"""Begins a run with this metadata."""


@dataclass
class Recording:
    """One series on its way into the camera's file, and into its run if there is a catalog."""

    camera: Camera
    path: Path
    run: "SeriesRun | None" = None
    findings: list[Finding] = field(default_factory=list)
    _reported: int = 0
    _shape: tuple[int, ...] = (0, 0)
    """Of the pictures in the file; after `end`."""
    _rows: int = 0
    """Number of pictures in the file; after `end`."""

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Return the pixels of a picture, (H, W) uint8; after `end`.

        Raise `DataError` if there is none, or its file could not be written or decoded.
        """
        if not 0 <= index < len(self.findings):
            raise DataError(f"picture {index}, the series has {len(self.findings)}")
        with ColumnReader(self.path, IDENTITY) as reader:
            rows = np.flatnonzero(reader.read(IDENTITY) == self.findings[index].frame_number)
            if not len(rows):
                raise DataError(f"{self.path}: no picture {index}")
            row = int(rows[0])
            height, width, image = (
                reader.read(name, row, row + 1)[0] for name in (HEIGHT, WIDTH, IMAGE)
            )
        gray: NDArray[np.uint8] = image[:height, :width]
        return gray

    def report(self) -> None:
        """Report to the catalog what is new."""
        if self.run is None:
            return
        state = self.camera.state()
        self.run.recorded(state.rows_readable, state.shape)
        self._report_findings()

    def end(self) -> None:
        """Stop the camera and close the file with all that has come."""
        acquisition = self.camera.stop_acquisition()
        if acquisition is not None and not acquisition.done.wait(FLUSH_LIMIT_S):
            logger.error("%s: pictures still wait to be written", self.path)
        state = self.camera.state()
        if state.capturing:  # afterwards its shape is that of the newest pictures of the source
            self._shape = state.shape
        self.camera.stop_capture()
        self._rows = self.camera.state().rows_readable

    def end_run(
        self,
        exit_status: "ExitStatus",
        reason: str,
        turn: "FittedSeries | None" = None,
        pictures: Mapping[str, bytes] | None = None,
        plots: Mapping[str, bytes] | None = None,
    ) -> None:
        """End the run, with `pictures` (file name to contents) for people; after `end`.

        A `turn` becomes a derived run with its `plots`. The next series may have begun meanwhile.
        """
        if self.run is None:
            return
        self._report_findings()
        skipped = sum(finding.why == SKIPPED for finding in self.findings)
        self.run.close(self._rows, self._shape, exit_status, reason, skipped, pictures)
        if turn is not None:
            self.run.derive(turn.analysis.fresh(), turn.batch, plots or {})

    def _report_findings(self) -> None:
        assert self.run is not None
        new = self.findings[self._reported :]
        self._reported += len(new)  # others may have come meanwhile
        found = [finding for finding in new if finding.found is not None]
        if found:
            self.run.found(as_batch(found))


def as_batch(findings: Sequence[Finding]) -> Batch:
    """Return what was found in searched pictures, one or more, as columns of `LoopDetection`."""
    return Batch(
        np.array([each.frame_number for each in findings], np.int64),
        np.array([each.time for each in findings], np.float64),
        as_columns((each.found, each.backend) for each in findings if each.found is not None),
    )


class SeriesRecorder:
    """Begins recordings; without a catalog only the file of the last series is kept.

    Not thread-safe.
    """

    def __init__(self, camera: Camera, begin_run: BeginRun | None) -> None:
        self.camera = camera
        self._begin_run = begin_run
        self.scratch = Path(tempfile.mkdtemp(prefix="skywright-dhs-"))
        """For what need not outlive this process."""
        self._count = 0

    def begin(self, metadata: Mapping[str, Any], seen: Callable[[SourceFrame], None]) -> Recording:
        """Begin to record; an error of disk or catalog is logged, and the series goes on.

        `metadata` are those of the run; `seen` gets each picture, on the source's thread.

        Raises
        ------
        SkywrightError
            If the camera cannot start; the run has failed then.
        """
        run = None
        if self._begin_run is not None:
            try:
                run = self._begin_run(metadata)
            except (OSError, SkywrightError) as error:
                logger.error("this series gets no run: %s", error)
        path = run.path if run is not None else self._scratch_file()
        if why := self.camera.start_capture(path, lazy=True):
            logger.error("this series is not recorded: %s", why)
        recording = Recording(self.camera, path, run)
        try:
            self.camera.acquire(on_item=seen)
        except Exception as error:
            self.camera.stop_capture()
            recording.end_run("fail", str(error))
            raise
        return recording

    def close(self) -> None:
        """Remove what was kept for the next question only."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _scratch_file(self) -> Path:
        """Return a file in a new directory; that of the series before is removed."""
        shutil.rmtree(self.scratch / str(self._count), ignore_errors=True)
        self._count += 1
        directory = self.scratch / str(self._count)
        with contextlib.suppress(OSError):  # the camera says that it cannot write there
            directory.mkdir(parents=True)  # a cleaner of /tmp may have been here
        return directory / "series.h5"

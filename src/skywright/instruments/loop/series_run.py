"""A series of pictures as a run, without a RunEngine: what was recorded, and what was found."""

import logging
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import event_model
from numpy.typing import NDArray

from skywright.analysis import Analysis, Batch
from skywright.callbacks.derived import DerivedRun, failure_reason
from skywright.callbacks.stream_documents import Emit, StreamDocuments
from skywright.instruments.loop.analysis import COLUMNS, LoopDetection
from skywright.instruments.loop.layouts import stream_columns

CAMERA = "axis"
"""Name of the device in the documents."""

ExitStatus = Literal["success", "abort", "fail"]

log = logging.getLogger(__name__)


class RecordedDetection(LoopDetection):
    """`LoopDetection` whose members bring their columns with them.

    For a server that must answer with what was found at once, and keeps just that. Results and
    columns are those of the analysis in a session, with the same parameters.
    """

    inputs = tuple(column.name for column in COLUMNS)
    pictures = 0  # the DHS draws them

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Return the columns as they came."""
        return batch.data


class SeriesRun:
    """The raw run of one recording of a camera, and the derived run of an analysis over it.

    Its data keys are those of `devices.loop.axis.AxisCamera` as a flyer: ``CAMERA_image``,
    ``CAMERA_frame_number``, ``CAMERA_frame_time``, all in the file. Not thread-safe.

    Parameters
    ----------
    analysis
        Fresh; takes in what `found` is given.
    emit
        Takes ``(name, document)``, e.g. a `Journal`.
    assets
        Root directory of assets.
    metadata
        For the start document.
    """

    def __init__(
        self, analysis: Analysis[Any], emit: Emit, assets: Path, metadata: Mapping[str, Any]
    ) -> None:
        self._emit = emit
        directory = assets.absolute() / f"{datetime.now():%Y/%m/%d}"
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{CAMERA}-{uuid.uuid4()}.h5"
        """Where the camera is to record."""
        self._run: Any = event_model.compose_run(metadata={**metadata, "detectors": [CAMERA]})
        self._pictures: StreamDocuments | None = None
        self._failed = False
        emit("start", self._run.start_doc)
        self._assets = assets
        self._keys = {name: f"{CAMERA}_{name}" for name in ("image", "frame_number", "frame_time")}
        try:
            self.derived = DerivedRun(analysis, self._run.start_doc, emit, assets, self._keys)
        except Exception as error:  # a disk that is full: nobody has this run, to end it
            why = failure_reason(error)
            emit("stop", self._run.compose_stop(exit_status="fail", reason=why))
            raise

    def recorded(self, count: int, shape: tuple[int, ...]) -> None:
        """Emit documents of the `count` pictures of a shape that are in the file by now."""
        if self._pictures is None and count > 0:
            self._pictures = self._describe(shape)
        if self._pictures is not None:
            self._pictures.emit_rows(count)

    def found(self, batch: Batch) -> None:
        """Take in what the analysis has of some pictures, in the order of their file.

        When it cannot, the derived run ends there, failed, and the raw run goes on.
        """
        if self._failed:
            return
        try:
            self.derived.add(batch)
        except Exception as error:  # a disk that is full, an analysis that raises
            self._failed = True
            uid = self._run.start_doc["uid"]
            log.exception("run %s: what was found cannot be kept", uid)
            self.derived.fail(error)

    def derive(self, analysis: Analysis[Any], batch: Batch, pictures: Mapping[str, bytes]) -> None:
        """Add a derived run, complete at once, of a fresh analysis over all pictures.

        `pictures` are file names and contents, kept with that run.
        """
        run = DerivedRun(analysis, self._run.start_doc, self._emit, self._assets, self._keys)
        try:
            run.add(batch)
        except Exception as error:
            run.fail(error)
            raise
        run.close(pictures=pictures)

    def close(
        self,
        count: int,
        shape: tuple[int, ...],
        exit_status: ExitStatus = "success",
        reason: str = "",
        skipped: int = 0,
        pictures: Mapping[str, bytes] | None = None,
    ) -> None:
        """Emit documents of the remaining pictures and end both runs.

        `skipped` pictures were recorded and not searched; `pictures`, file name to contents, are
        kept with the derived run.
        """
        self.recorded(count, shape)
        self._emit("stop", self._run.compose_stop(exit_status=exit_status, reason=reason))
        self.derived.dropped += skipped
        self.derived.close(exit_status, reason, pictures)

    def _describe(self, shape: tuple[int, ...]) -> StreamDocuments:
        columns = {f"{CAMERA}_{column.key}": column for column in stream_columns(shape)}
        keys = {key: column.describe("file") for key, column in columns.items()}
        return StreamDocuments(self._run, self._emit, "primary", CAMERA, self.path, columns, keys)

"""A document callback that fits rotations: the present one when asked, each one when it ends.

The pictures are looked at by `loop_detection` in its own process; what is left, a fit of some
milliseconds, is done here.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Batch
from skywright.callbacks.derived import DerivedRun
from skywright.callbacks.follow import Document, RunIds
from skywright.callbacks.journal import Journal
from skywright.callbacks.live import LiveAnalysis
from skywright.callbacks.rows import read_rows
from skywright.errors import ConfigError, DataError
from skywright.instruments.loop import centering
from skywright.instruments.loop.calibration import ZoomCalibration
from skywright.instruments.loop.rotation import LoopRotation, as_json, to_series
from skywright.instruments.loop.spindle import Turn, turns_both_ways
from skywright.instruments.loop.timing import fit_delay

log = logging.getLogger(__name__)

CATCH_UP_S = 300.0
"""Longer than a detection that is under way takes to end, or to be given up."""
CLOSE_S = 20.0
Picture = NDArray[np.uint8]
Calibrations = Callable[[float, tuple[int, ...]], ZoomCalibration]


@dataclass(frozen=True)
class Findings:
    """What the rotation of a run tells, and what it was computed from.

    Parameters
    ----------
    analysis
        Has seen all pictures.
    rows
        The pictures, with the inputs of `LoopRotation`.
    result
        Results of the analysis, plain Python values.
    """

    analysis: LoopRotation
    rows: Batch
    result: Mapping[str, Any]


class LiveRotation:
    """Subscribe it to the RunEngine after `detection`; it never raises and never waits.

    Each raw run with a spindle and a camera gets a derived run when it ends.

    Parameters
    ----------
    detection
        Runs `loop_detection` on the same documents.
    calibration
        Gives the camera's calibration at the zoom of a run, for pictures of a shape.
    journal, assets
        Directories of the store.
    """

    def __init__(
        self, detection: LiveAnalysis, calibration: Calibrations, *, journal: Path, assets: Path
    ) -> None:
        self.detection = detection
        self._calibration = calibration
        self._journal, self._assets = journal, assets
        self._ids = RunIds()
        self._turns: dict[str, Turn] = {}
        self._over: queue.SimpleQueue[Turn | None] = queue.SimpleQueue()
        self._finished = threading.Condition()
        self._derived: dict[str, str] = {}
        self._before: dict[str, tuple[Picture, float, str]] = {}
        self._thread = threading.Thread(target=self._serve, name="loop-rotation", daemon=True)
        self._thread.start()

    def __call__(self, name: str, doc: Document) -> None:
        """Take in a document of the session; it is not changed."""
        try:
            self._accept(name, doc)
        except Exception:  # an analysis must never end a run
            log.exception("loop_rotation: %s document not taken in", name)

    def _accept(self, name: str, doc: Document) -> None:
        uid = self._ids.of(name, doc)
        if name == "start" and doc.get("purpose") != "analysis":
            self._turns[str(uid)] = Turn(doc)
        turn = self._turns.get(str(uid))
        if turn is None:
            return
        turn(name, doc)
        if name == "stop":
            del self._turns[str(uid)]
            if turn.turns and turn.shape:
                self._over.put(turn)

    def find(self, raw_uid: str, frames: int | None = None, timeout_s: float = 2.0) -> Findings:
        """Fit what is known of a run that is open.

        Parameters
        ----------
        raw_uid
            The run.
        frames
            Wait until this number of pictures is detected.
        timeout_s
            For that.

        Raises
        ------
        DataError
            If there is no such run, no picture, or a file cannot be read.
        ConfigError
            If the camera is not calibrated at the run's zoom.
        TimeoutError
            If the pictures are not there in time.
        """
        turn = self._turns.get(raw_uid)
        if turn is None:
            raise DataError(f"loop_rotation: run {raw_uid[:8]} is not open")
        return self._fit(turn, frames, timeout_s)

    def derived_uid(self, raw_uid: str, timeout_s: float = 30.0) -> str:
        """Return the uid of the derived run of a run that has ended, once it is written.

        Raises
        ------
        TimeoutError
            If it is not there in time.
        """
        with self._finished:
            if not self._finished.wait_for(lambda: raw_uid in self._derived, timeout_s):
                raise TimeoutError(
                    f"loop_rotation: no derived run of {raw_uid[:8]} in {timeout_s:g} s"
                )
            return self._derived[raw_uid]

    def close(self) -> None:
        """Finish what is under way, within a time."""
        self._over.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.error("loop_rotation: %g s were not enough for the last derived run", CLOSE_S)

    # ---- fitting

    def _fit(self, turn: Turn, frames: int | None, timeout_s: float) -> Findings:
        uid = str(turn.start["uid"])
        rows = self.detection.columns(frames, raw_uid=uid, timeout_s=timeout_s)
        if not len(rows["identity"]):
            raise DataError(f"loop_rotation: run {uid[:8]} has no picture yet")
        calibration = self._calibration(float(turn.start.get("zoom", 0.0)), turn.shape)
        batch = Batch(
            rows.pop("identity").astype(np.int64), rows.pop("frame_time").astype(float), rows
        )
        analysis, batch = retime(turn, batch, calibration)
        analysis.update(batch)
        result = {k: v.item() for k, v in analysis.result().items() if not np.ndim(v)}
        return Findings(analysis, batch, result)

    # ---- the derived run, on a thread of its own

    def _serve(self) -> None:
        centering.warm_up()  # else the first rotation of a session waits half a second for it
        journal = Journal(self._journal)
        try:
            while (turn := self._over.get()) is not None:
                try:
                    self._derive(turn, journal)
                except Exception:  # whatever it is, the next run has its own chance
                    log.exception("loop_rotation: run %s", turn.start["uid"])
        finally:
            journal.close()

    def _derive(self, turn: Turn, journal: Journal) -> None:
        uid = str(turn.start["uid"])
        try:
            found = self._fit(turn, None, CATCH_UP_S)
        except (DataError, ConfigError, TimeoutError) as error:
            log.error("loop_rotation: run %s has no derived run: %s", uid[:8], error)
            return
        try:
            pictures = self._draw(turn, found)
        except Exception:  # a run is worth more than its pictures
            log.exception("loop_rotation: run %s has no pictures", uid[:8])
            pictures = {}
        keys = {"detection": self.detection.progress(uid).derived_uid or ""}
        derived = DerivedRun(found.analysis.fresh(), turn.start, journal, self._assets, keys)
        derived.add(found.rows)
        if found.result["ok"] or found.result["middle_ok"]:
            derived.close("success", "", pictures)
        else:
            why = found.result["why"] or found.result["middle_why"]
            derived.close("fail", str(why), pictures, keeps_result=True)
        with self._finished:
            self._derived[uid] = derived.uid
            while len(self._derived) > 64:
                self._derived.pop(next(iter(self._derived)))
            self._finished.notify_all()

    def _draw(self, turn: Turn, found: Findings) -> Mapping[str, bytes]:
        try:
            from skywright.instruments.loop import rotation_pictures as pictures

            calibration, phi = found.analysis.calibration, found.rows["phi"]
            drawn = dict(pictures.draw_rotation(found.rows, found.result, calibration))
        except ImportError as error:  # a lean installation has no plots
            log.info("loop_rotation: no pictures: %s", error)
            return {}
        if turn.images is None:
            return drawn
        path, dataset = turn.images

        def read(number: int) -> Picture:
            row = int(found.rows["image_num"][number])  # of the file: pictures may be skipped
            return read_rows(Path(path), dataset, [dataset], row, row + 1)[0][0]

        rows = pictures.places_on_sheet(phi)
        drawn |= pictures.draw_sheet({row: read(row) for row in rows}, phi, calibration)
        centering = turn.start.get("centering")
        if centering and rows:
            drawn |= self._before_after(centering, phi, read, calibration)
        return drawn

    def _before_after(
        self,
        centering: Mapping[str, Any],
        phi: NDArray[Any],
        read: Callable[[int], Picture],
        calibration: ZoomCalibration,
    ) -> Mapping[str, bytes]:
        """Keep a picture of the first pass; draw it beside one of a later pass at its angle."""
        from skywright.instruments.loop.rotation_pictures import draw_before_after

        known = np.flatnonzero(np.isfinite(phi))
        before = self._before.get(centering["uid"])
        if before is None:
            row = int(known[0])
            text = f"before, {phi[row]:.0f} deg"
            self._before = {centering["uid"]: (read(row), phi[row], text)}
            return {}
        apart = np.abs((phi[known] - before[1] + 180.0) % 360.0 - 180.0)
        row = int(known[np.argmin(apart)])
        text = f"after pass {centering['pass'] - 1}, {phi[row]:.0f} deg"
        return draw_before_after((before[0], before[2]), (read(row), text), calibration)


def retime(turn: Turn, rows: Batch, calibration: ZoomCalibration) -> tuple[LoopRotation, Batch]:
    """Give each picture its angle; fit the camera's delay where the spindle turned both ways.

    Parameters
    ----------
    turn
        Of the run.
    rows
        Columns of `loop_detection` for the first pictures of the run, in the order of the file.
    calibration
        Of the camera; its delay holds where none can be fitted.

    Returns
    -------
    LoopRotation
        Fresh, with the delay that was used.
    Batch
        `rows` with ``phi`` (deg) and ``image_num``.
    """
    trace, delay_s, sigma_s = turn.trace(), calibration.delay_s, None
    why = "the spindle did not turn both ways"
    places = turn.rows(rows.identities)
    numbered: dict[str, NDArray[Any]] = {**rows.data, "image_num": places}
    if trace is not None and turns_both_ways(trace):
        angles = turn.angles(rows.times, places, trace, delay_s)
        tips = to_series(Batch(rows.identities, rows.times, {**numbered, "phi": angles})).tip_px
        fitted = fit_delay(trace, rows.times, tips, calibration.view)
        why = fitted.why
        if fitted.ok:
            delay_s, sigma_s = fitted.delay_s, fitted.sigma_s
    numbered["phi"] = turn.angles(rows.times, places, trace, delay_s)
    analysis = LoopRotation(
        calibration=as_json(calibration), delay_s=delay_s, delay_sigma_s=sigma_s, delay_why=why
    )
    return analysis, Batch(rows.identities, rows.times, numbered)

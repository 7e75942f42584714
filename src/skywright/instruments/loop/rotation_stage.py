"""The fit of a rotation as a second-stage analysis, over what `loop_detection` finds."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, Batch
from skywright.analysis.second import Document, SecondRun, SecondStage
from skywright.files.columns import ColumnReader
from skywright.instruments.loop import centering
from skywright.instruments.loop.calibration import (
    CALIBRATION,
    CalibrationFile,
    ZoomCalibration,
    as_json,
    from_json,
    guess,
)
from skywright.instruments.loop.rotation import LoopRotation
from skywright.instruments.loop.spindle import RunSpindle, turns_both_ways
from skywright.instruments.loop.timing import fit_delay

log = logging.getLogger(__name__)

Picture = NDArray[np.uint8]

_first_pictures: dict[str, tuple[Picture, float, str]] = {}
"""Of the present centering, by its uid: a picture of the first pass, its angle, its title. It is
used in the process that draws."""


class RotationStage(SecondStage):
    """Fits each run with a spindle and a camera, by a file of calibrations that need not exist."""

    analysis = LoopRotation

    def __init__(self, *, calibrations: str) -> None:
        self.calibrations = CalibrationFile(Path(calibrations))

    def begin_run(self, start: Document) -> "RotationRun":
        """Return the fit of one raw run."""
        return RotationRun(start, self.calibrations)

    def event_keys(self, start: Document) -> frozenset[str]:
        """Return the data keys of angle and place, which a step scan names."""
        return frozenset({*start.get("place_keys", ()), start.get("angle_key", "")} - {""})

    def warm_up(self) -> None:
        """Compile the fit."""
        centering.warm_up()


class RotationRun(SecondRun):
    """The fit of one raw run."""

    def __init__(self, start: Document, calibrations: CalibrationFile) -> None:
        self.turn = RunSpindle(start)
        self._calibrations = calibrations

    def __call__(self, name: str, doc: Document) -> None:
        """Take in a document of the run."""
        self.turn(name, doc)

    @property
    def fits(self) -> bool:
        """Whether the run has a spindle and pictures."""
        return self.turn.turns and bool(self.turn.shape)

    def prepare(self, rows: Batch) -> tuple[Analysis[Any], Batch]:
        """Give each picture its angle, by the calibration of its run, else the saved one."""
        if given := self.turn.start.get(CALIBRATION):
            return _retime(self.turn, rows, from_json(given))
        zoom, shape = float(self.turn.start.get("zoom", 0.0)), self.turn.shape
        # Where the spindle rests, pixels alone count: `calibrate_camera` looks at a new zoom.
        if self.turn.is_meant_to_turn:
            return _retime(self.turn, rows, self._calibrations.at_or_guess(zoom, shape))
        delays = {each.zoom: each.delay_s for each in self._calibrations.stops()}
        at_rest = replace(guess(zoom, shape), delay_s=delays.get(zoom, 0.0))
        return _retime(self.turn, rows, at_rest)

    def failure(self, result: Mapping[str, Any]) -> str:
        """Return why neither tip nor middle is known."""
        if result["ok"] or result["middle_ok"]:
            return ""
        return str(result["why"] or result["middle_why"])

    def draw(
        self, analysis: Analysis[Any], members: Batch, result: Mapping[str, Any]
    ) -> Iterator[tuple[str, bytes]]:
        """Draw the fit and a sheet of pictures; of a centering also its first picture."""
        assert isinstance(analysis, LoopRotation)
        turn, calibration, phi = self.turn, analysis.calibration, members["phi"]
        try:
            from skywright.instruments.loop import rotation_pictures as pictures

            yield from pictures.draw_rotation(members, result, calibration).items()
        except ImportError as error:  # a lean installation has no plots
            log.info("loop_rotation: no pictures: %s", error)
            return
        if turn.images is None:
            return
        path, dataset = turn.images
        with ColumnReader(Path(path), dataset) as file:

            def read(number: int) -> Picture:
                row = int(members["image_num"][number])  # of the file: pictures may be skipped
                picture: Picture = file.read(dataset, row, row + 1)[0]
                return picture

            rows = pictures.places_on_sheet(phi)
            yield from pictures.draw_sheet(((row, read(row)) for row in rows), members, calibration)
            if (centering := turn.start.get("centering")) and rows:
                yield from self._before_after(centering, phi, read, calibration).items()

    def _before_after(
        self,
        centering: Mapping[str, Any],
        phi: NDArray[Any],
        read: Callable[[int], Picture],
        calibration: ZoomCalibration,
    ) -> Mapping[str, bytes]:
        """Keep a picture of the first pass drawn; draw it beside one of a later pass at its angle.

        A worker that is replaced amid a centering has not drawn its first pass.
        """
        from skywright.instruments.loop.rotation_pictures import draw_before_after

        known = np.flatnonzero(np.isfinite(phi))
        done = centering["pass"] - 1
        when = f"after pass {done}" if done else "before"
        before = _first_pictures.get(centering["uid"])
        angle = phi[known[0]] if before is None else before[1]
        row = int(known[np.argmin(np.abs((phi[known] - angle + 180.0) % 360.0 - 180.0))])
        picture, text = read(row), f"{when}, {phi[row]:.0f} deg"
        if before is None:
            _first_pictures.clear()
            _first_pictures[centering["uid"]] = picture, phi[row], text
            return {}
        return draw_before_after((before[0], before[2]), (picture, text), calibration)


def _retime(
    turn: RunSpindle, rows: Batch, calibration: ZoomCalibration
) -> tuple[LoopRotation, Batch]:
    """Give pictures their angle and number; fit the delay if the spindle turned both ways."""
    trace, delay_s, sigma_s = turn.trace(), calibration.delay_s, None
    why = "the spindle did not turn both ways"
    places = turn.rows(rows.identities)
    if trace is not None and turns_both_ways(trace):
        tips = np.stack([rows["tip_x"], rows["tip_y"]], axis=1)
        fitted = fit_delay(trace, rows.times, tips, calibration.view)
        why = fitted.why
        if fitted.ok:
            delay_s, sigma_s = fitted.delay_s, fitted.sigma_s
    phi = turn.angles(rows.times, places, trace, delay_s)
    analysis = LoopRotation(
        calibration=as_json(calibration), delay_s=delay_s, delay_sigma_s=sigma_s, delay_why=why
    )
    data = {**rows.data, "image_num": places, "phi": phi}
    return analysis, Batch(rows.identities, rows.times, data)

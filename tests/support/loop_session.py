"""A session over the twin: engine, live detection in its own process, rotations, decisions."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bluesky import RunEngine
from bluesky.preprocessors import inject_md_wrapper
from support.loop_world import TwinCamera, TwinGoniometer, World, virtual_time
from support.undrawn import DETECTION, ROTATION

from devices.loop.rotation import CameraCalibration, RotationResult
from skywright.callbacks.live import LiveAnalysis, SecondReports
from skywright.callbacks.pace import DECISION_LIMIT
from skywright.instruments.loop.calibration import as_json


@dataclass
class Session:
    """What a session of a beamline has, without EPICS."""

    engine: RunEngine
    detection: LiveAnalysis
    rotation: SecondReports
    result: RotationResult
    documents: list[tuple[str, Any]]
    directory: Path

    def mount(self, world: World, calibrated: bool = True, **changes: Any) -> dict[str, Any]:
        """Put a sample on; return the devices by the names of the plan's arguments."""
        virtual_time(self.engine, world)
        self.result.calibration.file.path.unlink(missing_ok=True)
        if calibrated:
            values = as_json(world.calibration(**changes))
            self.result.calibration.set(values).wait(1)
        assets = self.directory / "assets"
        return {
            "camera": TwinCamera(world, assets),
            "goniometer": TwinGoniometer(world, assets),
            "result": self.result,
        }

    def run(self, plan: Any) -> Any:
        """Run a plan; return what it returns."""
        self.documents.clear()
        return self.engine(plan).plan_result

    def derived_rotation(self, raw_uid: str) -> str:
        """Wait for the derived run of the fit; return its uid."""
        done = self.rotation.wait(raw_uid=raw_uid)
        assert done.derived_uid, done.error
        return done.derived_uid

    def stops(self) -> list[dict[str, Any]]:
        return [doc for name, doc in self.documents if name == "stop"]


@contextmanager
def loop_session(directory: Path) -> Iterator[Session]:
    """Run a session for the time of a with block."""
    tests = str(Path(__file__).parents[1])  # where the worker finds `DETECTION`
    path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    with patch.dict(os.environ, PYTHONPATH=path):
        yield from _session(directory)


def _session(directory: Path) -> Iterator[Session]:
    journal, assets = directory / "journal", directory / "assets"
    engine = RunEngine(call_returns_result=True)
    # Virtual time is faster than the analysis, which is to see all pictures all the same.
    engine.preprocessors.append(partial(inject_md_wrapper, md={DECISION_LIMIT: 600.0}))
    calibration = CameraCalibration(directory / "calibration.json", "camera_calibration")
    second = {ROTATION: {"calibrations": str(calibration.file.path)}}
    detection = LiveAnalysis(DETECTION, journal=journal, assets=assets, second=second)
    rotation = detection.second_reports[ROTATION]
    result = RotationResult(rotation, calibration, timeout_s=30.0)
    documents: list[tuple[str, Any]] = []
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    engine.subscribe(detection)
    detection.wait_ready()
    try:
        yield Session(engine, detection, rotation, result, documents, directory)
    finally:
        if engine.state != "idle":
            engine.halt()
        detection.close()

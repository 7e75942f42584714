"""The RunEngine: metadata that lasts, the journal first, then what may fail without harm."""

import atexit
import sys

from bluesky import RunEngine, SupplementalData
from bluesky.callbacks.best_effort import BestEffortCallback
from bluesky.utils import PersistentDict, ProgressBarManager

from devices.loop_rotation import CameraCalibration, RotationResult
from skywright.callbacks.isolated import isolated
from skywright.callbacks.journal import Journal
from skywright.callbacks.live import LiveAnalysis
from skywright.callbacks.live_rotation import LiveRotation
from skywright.plain_errors import shorten_engine_log, shorten_tracebacks
from skywright.profile import has_display, run_metadata

RE = RunEngine(PersistentDict(settings.directory / "md"), call_returns_result=True)
RE.md.update(run_metadata(settings))
shorten_engine_log()

journal = Journal(settings.directory / "journal", RE)
RE.subscribe(journal)

loop_detection = LiveAnalysis(
    "loop_detection",
    settings.loop_detection,
    journal=settings.directory / "journal",
    assets=settings.directory / "assets",
)
RE.subscribe(isolated(loop_detection))
atexit.register(loop_detection.close)  # after all that was registered later

axis_calibration = CameraCalibration(
    settings.directory / "calibration" / "axis.json", "axis_calibration"
)
loop_rotation = LiveRotation(
    loop_detection,
    axis_calibration.at_or_guess,
    journal=settings.directory / "journal",
    assets=settings.directory / "assets",
)
RE.subscribe(isolated(loop_rotation))
atexit.register(loop_rotation.close)  # the last rotation is finished
rotation = RotationResult(loop_rotation, axis_calibration, name="rotation")

if "psss" in settings.iocs:
    psss_spectra = LiveAnalysis(
        "psss_spectra",
        settings.psss_spectra,
        journal=settings.directory / "journal",
        assets=settings.directory / "assets",
    )
    RE.subscribe(isolated(psss_spectra))
    atexit.register(psss_spectra.close)

bec = BestEffortCallback()
if not has_display():
    bec.disable_plots()
RE.subscribe(isolated(bec))

if sys.stdout.isatty():
    RE.waiting_hook = ProgressBarManager()

if "get_ipython" in globals() and hasattr(get_ipython(), "register_magics"):
    from bluesky.magics import BlueskyMagics

    get_ipython().register_magics(BlueskyMagics)  # %wa, %mov, %ct ...
    shorten_tracebacks(get_ipython())

sd = SupplementalData()
RE.preprocessors.append(sd)

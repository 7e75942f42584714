"""Centering as a session does it: ``python -m benchmarks.bench_loop_centering``.

Over Channel Access: the demo's simulated beamline in processes of its own, its samples at random
places. The floor of a centering is the time that the spindle turns.
"""

import os
import shutil
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import argument_parser
from benchmarks.rows import report
from benchmarks.slowed import slowed
from skywright.cli.beamline import ensure_beamline
from skywright.cli.demo import write_configuration
from skywright.config import load_settings
from skywright.instruments.loop.calibration import now
from skywright.instruments.loop.demos.centering import CALIBRATION, LOOPS, Simulator, random_place
from skywright.session.profile import load_profile

SLOW, WHOLE = 3, 5
"""Centerings with a first rotation of 180 deg in 3 s, and with the default settings."""
PIN, PIN_UM = (3, "pin"), np.array([0.0, 300.0, 0.0])
"""Seed, kind and place of the tip that a calibration looks at."""
SLOWER = 4.0
"""Factor by which the analysis is slower than this machine."""


def center(session: dict[str, Any], simulator: Simulator, number: int, **options: Any) -> Any:
    """Center a sample at a random place; return result, seconds and true distance from the axis."""
    from plans.loop.centering import center_loop

    seed, kind = LOOPS[number % len(LOOPS)]
    simulator.mount(seed, kind, random_place(np.random.default_rng(number)))
    began = time.monotonic()
    plan = center_loop(session["axis"], session["gonio"], session["rotation"], **options)
    done = session["RE"](plan).plan_result
    return done, time.monotonic() - began, float(np.hypot(*simulator.offset_um()[1:]))


def pictures_per_s(session: dict[str, Any], uid: str) -> float:
    """Return the rate at which the twin gave pictures in a run."""
    times = session["loop_detection"].columns(raw_uid=uid, timeout_s=60.0)["frame_time"]
    return float((len(times) - 1) / (times[-1] - times[0]))


def report_median(name: str, values: list[float], unit: str, **more: Any) -> None:
    """Print the row of a median, with the extremes beside it."""
    value = float(np.median(values))
    report(name, value, unit, max=max(values), min=min(values), **more)


def calibrate(session: dict[str, Any], simulator: Simulator) -> float:
    """Calibrate the camera with a pin off the spindle's axis; return the seconds it took.

    A tip on the axis does not move across it, and would not tell the camera's delay.
    """
    from plans.loop.calibration import calibrate_camera

    simulator.mount(*PIN, PIN_UM)
    began = time.monotonic()
    plan = calibrate_camera(session["axis"], session["gonio"], session["rotation"])
    session["RE"](plan)
    return time.monotonic() - began


def main() -> int:
    """Print the rows; return 0."""
    argument_parser(__doc__).parse_args()
    directory = Path(tempfile.mkdtemp())
    # Finalizers run from the newest to the oldest: after those of all that writes there.
    weakref.finalize(main, shutil.rmtree, directory, ignore_errors=True)
    os.environ["SKYWRIGHT_CONFIG"] = str(write_configuration(["centering"], directory))
    os.environ["SKYWRIGHT_PREFIX"] = f"BENCH{os.getpid()}:"
    ensure_beamline(load_settings())
    session = load_profile()
    session["bec"].disable_table()
    simulator = Simulator(session["axis"].prefix, session["gonio"].prefix)
    session["loop_detection"].wait_ready()
    session["axis_calibration"].set({**CALIBRATION, "date": now()}).wait(10)
    known: list[float] = []

    def note(_: str, doc: dict[str, Any]) -> None:
        """Note how old the last picture is when a rotation's result is there."""
        if doc["data"].get("rotation_n_turned", 0) > 0:
            known.append(time.time() - doc["data"]["rotation_last_time"])

    token = session["RE"].subscribe(note, "event")
    first = []
    for number in range(SLOW):
        known.clear()
        center(session, simulator, number, time_s=6.0)
        first.append(known[0])
    session["RE"].unsubscribe(token)
    name = "loop centering, last picture of 180 deg in 3 s to center known"
    report_median(name, first, "s", goal=0.5)
    made = [center(session, simulator, SLOW + number) for number in range(WHOLE)]
    passes = [done.passes for done, _, _ in made]
    turning = 2.0 + 4.0 * (float(np.median(passes)) - 1.0)
    seconds = [took for _, took, _ in made]
    ok = all(done.ok for done, _, _ in made)
    name = "loop centering, whole"
    report_median(name, seconds, "s", floor=turning, goal=12.0, passes=passes, ok=ok)
    name = "loop centering, true distance from the spindle"
    report_median(name, [distance for _, _, distance in made], "um", goal=10.0)
    rates = [pictures_per_s(session, done.uids[-1]) for done, _, _ in made]
    report_median("loop twin, pictures while the goniometer moves", rates, "1/s", goal=30.0)
    report("calibrate_camera, whole", calibrate(session, simulator), "s")
    with slowed(lambda: session["loop_detection"].worker_pid, SLOWER):
        name = f"calibrate_camera, analysis slower by {SLOWER:g}"
        report(name, calibrate(session, simulator), "s")
        done, took, distance = center(session, simulator, SLOW)
        name = f"loop centering, whole, analysis slower by {SLOWER:g}"
        report(name, took, "s", ok=done.ok, distance_um=distance)
    session["loop_detection"].close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

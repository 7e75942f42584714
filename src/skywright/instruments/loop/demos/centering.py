"""Demo of loop centering: center loops of each class from random places, refuse what is none."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from skywright.cli.demos import DemoResult, wait_for_derived
from skywright.config import IocSettings
from skywright.errors import SkywrightError
from skywright.instruments.loop.calibration import now

SCENE = {
    "side": "left",
    "um_per_px_x": 6.7324,
    "um_per_px_y": 7.4729,
    "axis_px": 236.0,
    "roll_deg": 0.0,
    "light": "backlight",
    "level": 180.0,
    "contrast": 0.9,
    "focus_um": 0.0,
    "depth_of_field_um": 1500.0,
    "nozzle": None,
    "exposure_s": 0.008,
}
CALIBRATION = {
    **{key: SCENE[key] for key in ("side", "um_per_px_x", "um_per_px_y", "axis_px")},
    "zoom": 0.0,
    "axis_sigma_px": 0.5,
    "scale_residual_px": 0.2,
    "axis_residual_px": 0.2,
    "delay_s": 0.085,
    "target_px": 352.0,
}
"""As `calibrate_camera` finds it."""
LOOPS, REFUSED = ((55, "nylon"), (12, "mitegen")), ((3, "pin"), (2, "none"))
ACROSS_UM, ALONG_UM = 600.0, 1000.0
TOLERANCE_UM = 10.0


def iocs() -> dict[str, IocSettings]:
    """Return a goniometer, and a camera that looks at the sample on it."""
    args = ("--source", "sim", "--goniometer", "{goniometer}", "--scene", json.dumps(SCENE))
    return {
        "axis": IocSettings(module="iocs.axis", prefix="AXIS1:", args=args),
        "goniometer": IocSettings(module="iocs.goniometer", prefix="GONIO1:"),
    }


def run(session: Mapping[str, Any]) -> list[DemoResult]:
    """Run the plans on one sample after the other, each at a random place."""
    simulator = Simulator(session["axis"].prefix, session["gonio"].prefix)
    rng = np.random.default_rng(1)
    session["loop_detection"].wait_ready()
    session["axis_calibration"].set({**CALIBRATION, "date": now()}).wait(10)
    results = []
    for seed, kind in LOOPS:
        simulator.mount(seed, kind, random_place(rng))
        results.append(_center(session, simulator, kind))
    for seed, kind in REFUSED:
        simulator.mount(seed, kind, random_place(rng))
        results.append(_refuse(session, kind))
    return [_with_derived(session, result) for result in results]


def random_place(rng: np.random.Generator) -> "np.ndarray[Any, Any]":
    """Return where a tip may be when the robot has mounted it, um from the beam."""
    return np.array([rng.uniform(-ALONG_UM, ALONG_UM), *rng.uniform(-ACROSS_UM, ACROSS_UM, 2)])


class Simulator:
    """Mounts samples, and knows what is true of them."""

    def __init__(self, axis: str, gonio: str) -> None:
        from ophyd import EpicsSignal, EpicsSignalRO

        from devices.guarded import read_all_elements

        put = ("Seed", "Kind", "X", "Y", "Z")
        self._mount = {
            name: EpicsSignal(f"{axis}SIM:Mount{name}", name=f"mount_{name}") for name in put
        }
        self._go = EpicsSignal(f"{axis}SIM:Mount", name="mount", put_complete=True)
        self._scene = EpicsSignalRO(f"{axis}SIM:Scene_RBV", name="scene", string=True)
        self._pose = EpicsSignalRO(f"{gonio}SIM:Pose_RBV", name="pose")
        for signal in (*self._mount.values(), self._go, self._scene, self._pose):
            signal.wait_for_connection(timeout=10)
        self._ask = read_all_elements

    def mount(self, seed: int, kind: str, tip_um: "np.ndarray[Any, Any]") -> None:
        """Mount a sample whose tip is at a place of the goniometer frame, as the stages stand."""
        at_zero = tip_um - self._ask(self._pose)[:3]
        values = (seed, kind, *map(float, at_zero))
        for signal, value in zip(self._mount.values(), values, strict=True):
            signal.put(value, wait=True)
        self._go.set(1).wait(timeout=30)

    def truth(self) -> dict[str, Any]:
        """Return what is true of the scene, with all stages at 0."""
        found: dict[str, Any] = json.loads(self._ask(self._scene))
        return found

    def offset_um(self) -> list[float]:
        """Return where the middle of the loop is, from the beam."""
        pose = self._ask(self._pose)[:3]
        return [round(float(v), 1) for v in np.add(self.truth()["center_offset_um"], pose)]


def _center(session: Mapping[str, Any], simulator: Simulator, kind: str) -> DemoResult:
    before, began = simulator.offset_um(), time.monotonic()
    uids, done, why = _run_centering(session)
    seconds = time.monotonic() - began
    after = simulator.offset_um()
    result: dict[str, Any] = {"why": why or done.why}
    if done is not None:
        result |= {
            "kind": done.kind,
            "offset_um": [round(-value, 1) for value in done.moved_um],
            "left_um": [round(value, 1) for value in done.offset_um],
            "sigma_um": round(done.sigma_um, 1),
            "passes": done.passes,
            "seconds": round(seconds, 1),
        }
    return DemoResult(
        plan=f"center_loop ({kind})",
        raw_uid=uids[-1],
        truth={"kind": kind, "offset_um": before, "left_um": after},
        result={key: value for key, value in result.items() if value != ""},
        ok=bool(done and done.ok and done.kind == kind and math.hypot(*after[1:]) <= TOLERANCE_UM),
    )


def _run_centering(session: Mapping[str, Any], **options: Any) -> tuple[list[str], Any, str]:
    """Center what is mounted; return the uids of the runs, the result, and why there is none."""
    from plans.loop.centering import center_loop

    devices = session["axis"], session["gonio"], session["rotation"]
    uids: list[str] = []
    token = session["RE"].subscribe(lambda _, doc: uids.append(doc["uid"]), "start")
    try:
        done = session["RE"](center_loop(*devices, **options)).plan_result
    except SkywrightError as error:
        if not uids:  # no run that could be shown
            raise
        return uids, None, f"{type(error).__name__}: {error}"
    finally:
        session["RE"].unsubscribe(token)
    return uids, done, ""


def _refuse(session: Mapping[str, Any], kind: str) -> DemoResult:
    uids, _, why = _run_centering(session, search_steps=0)
    expected = {"pin": "no loop", "none": "no pin"}[kind]
    return DemoResult(
        plan=f"center_loop ({kind})",
        raw_uid=uids[-1],
        truth={"kind": kind},
        result={"refused": why or "no"},
        ok=expected in why,
    )


def _with_derived(session: Mapping[str, Any], result: DemoResult) -> DemoResult:
    """Add the derived runs and the files of their pictures, before and after first."""
    # The last run of one that was refused before the spindle turned has a detection only.
    turned = "refused" not in result.result
    analyses = ["loop_detection", "loop_rotation"] if turned else ["loop_detection"]
    runs = wait_for_derived(session["tiled"], result.raw_uid, *analyses)
    files = [
        line
        for each in runs
        for line in str(each["result"].read().isel(time=-1)["pictures"].item()).splitlines()
        if Path(line).is_file()
    ]
    files.sort(key=lambda file: ("before_after" not in file, "rotation" not in file))
    uids = [each.metadata["start"]["uid"] for each in runs]
    return replace(result, derived_uids=uids, pictures=files)

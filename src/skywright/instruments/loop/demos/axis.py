"""Demo of the AXIS camera: simulated pictures step by step and flying, and pushed JPEGs."""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import httpx
import numpy as np

from skywright.cli.demos import DemoResult, wait_for_derived
from skywright.config import IocSettings

TIP_LIMIT_PX = 8.0
"""Goal for the 95th percentile of the tip's error; the demo's median must be well within."""
PUSHED, PUSHED_PER_S = 60, 30.0


def iocs() -> dict[str, IocSettings]:
    """Return a camera that looks at a turning loop, and one that listens for pushed pictures."""
    turning = ("--source", "sim", "--kind", "nylon", "--turn", "30", "--seed", "6")
    return {
        "axis_turning": IocSettings(module="iocs.axis", prefix="AXIS2:", args=turning),
        "axis_push": IocSettings(
            module="iocs.axis",
            prefix="AXIS3:",
            args=("--source", "push", "--listen", "0", "--size", "704x480"),
        ),
    }


def run(session: Mapping[str, Any]) -> list[DemoResult]:
    """Run the plans over both cameras; the detection runs beside them."""
    from plans.pictures import take_pictures, watch_camera

    session["loop_detection"].wait_ready()
    axis, pushed = _camera(session, "axis_turning"), _camera(session, "axis_push")
    truth = _Truth(axis.prefix)
    return [
        _score(session, "take_pictures", take_pictures(axis, 10), axis, truth.by_number),
        _score(session, "watch_camera", watch_camera(axis, 5), axis, truth.by_number),
        _push(session, pushed, watch_camera(pushed, PUSHED / PUSHED_PER_S + 3.0)),
    ]


def _camera(session: Mapping[str, Any], ioc: str) -> Any:
    """Return the camera of an IOC, connected."""
    from devices.loop.axis import AxisCamera

    settings = session["settings"]
    camera = AxisCamera(settings.pv_prefix(ioc), name=ioc, assets=settings.assets)
    camera.wait_for_connection(timeout=10)
    return camera


class _Truth:
    """What the simulator says of each picture, by frame number."""

    def __init__(self, prefix: str) -> None:
        from ophyd import EpicsSignalRO

        self.by_number: dict[int, Mapping[str, Any]] = {}
        self._signal = EpicsSignalRO(f"{prefix}SIM:Truth_RBV", name="truth", string=True)
        self._signal.wait_for_connection(timeout=10)
        self._signal.subscribe(self._keep)

    def _keep(self, value: str, **_: Any) -> None:
        if value:
            truth = json.loads(value)
            self.by_number[truth["frame_number"]] = truth


def _score(
    session: Mapping[str, Any],
    plan_name: str,
    plan: Any,
    camera: Any,
    truths: Mapping[int, Mapping[str, Any]],
) -> DemoResult:
    """Run `plan` and compare what the detection found with what the simulator knows."""
    from skywright.store.show import view_run

    outcome = session["RE"](plan)
    uid = outcome.run_start_uids[0]
    (derived,) = wait_for_derived(session["tiled"], uid, "loop_detection")
    raw = session["stored"](uid)  # whole: its analysis can be done before it is all in the catalog
    numbers = raw[f"primary/{camera.name}_frame_number"].read()
    tips = np.stack([derived[f"pictures/tip_{axis}"].read() for axis in "xy"], axis=1)
    known = [(tip, truths[n]) for n, tip in zip(numbers, tips, strict=False) if n in truths]
    final = derived["result"].read().isel(time=-1)
    truth = known[-1][1] if known else {}
    in_view = [(tip, t["tip_px"]) for tip, t in known if t["tip_in_view"]]
    errors = [float(np.hypot(*(tip - np.array(true)))) for tip, true in in_view]
    result = {
        "pictures": len(tips),
        "compared": len(errors),
        "tip_error_px": round(float(np.median(errors)), 2) if errors else None,
        "class": str(final["kind"].item()),
        "side": str(final["side"].item()),
    }
    return DemoResult(
        plan=plan_name,
        raw_uid=uid,
        derived_uids=[derived.metadata["start"]["uid"]],
        truth={"pictures": len(numbers), "class": truth.get("kind"), "side": truth.get("side")},
        result=result,
        ok=bool(
            outcome.exit_status == "success"
            and errors
            and np.median(errors) < TIP_LIMIT_PX
            and result["class"] == truth.get("kind")
            and result["side"] == truth.get("side")
            and len(tips) == len(numbers)
        ),
        pictures=[str(path) for path in view_run(session["tiled"], raw).pictures if path.is_file()],
    )


def _push(session: Mapping[str, Any], camera: Any, plan: Any) -> DemoResult:
    """Push JPEGs over HTTP while `plan` records what arrives."""
    from skywright.instruments.loop.picture import encode_jpeg
    from skywright.instruments.loop.twin.render import Pose, render
    from skywright.instruments.loop.twin.scene import random_scene

    scene = random_scene(np.random.default_rng(7), kind="mitegen", width_px=704, height_px=480)
    frames = [render(scene, Pose(phi_deg=6.0 * i), frame_seed=i) for i in range(PUSHED)]
    files = [encode_jpeg(frame.image, 90) for frame in frames]
    port = session["stack"].processes["axis_push"].ready["listen"]
    recording = threading.Event()
    camera.acquiring.subscribe(lambda value, **_: recording.set() if value else None)
    sender = threading.Thread(target=_send_when, args=(recording, port, files), daemon=True)
    sender.start()
    first = int(camera.captured.get())
    truths = {first + i: {**asdict(f.truth), "frame_number": i} for i, f in enumerate(frames)}
    result = _score(session, "watch_camera (pushed JPEGs)", plan, camera, truths)
    sender.join()
    return result


def _send_when(recording: threading.Event, port: int, files: list[bytes]) -> None:
    """Send one picture every 1/30 s, once the camera records."""
    recording.wait(20.0)
    patience, start = threading.Event(), time.monotonic()
    headers = {"Content-Type": "image/jpeg"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as client:
        for number, data in enumerate(files):
            patience.wait(max(0.0, start + number / PUSHED_PER_S - time.monotonic()))
            client.post("/", content=data, headers=headers)

"""Demo of the beam position monitor: two seconds of samples, and their mean position."""

import math
from collections.abc import Mapping
from typing import Any

from skywright.cli.demos import DemoResult, wait_for_derived
from skywright.config import IocSettings

X_MM, Y_MM = 0.4, -0.25
SECONDS = 2.0
LIMIT_MM = 0.01


def iocs() -> dict[str, IocSettings]:
    """Return a monitor with the beam beside its middle."""
    args = ("--seed", "3", "--x", str(X_MM), "--y", str(Y_MM))
    return {"bpm": IocSettings(module="skywright_bpm.ioc", prefix="BPM1:", args=args)}


def run(session: Mapping[str, Any]) -> list[DemoResult]:
    """Record, and compare the result of the live analysis with what is simulated."""
    session["bpm_position"].wait_ready()
    outcome = session["RE"](session["record_position"](session["bpm"], SECONDS))
    uid = outcome.run_start_uids[0]
    (derived,) = wait_for_derived(session["tiled"], uid, "bpm_position")
    samples = len(session["stored"](uid)["primary/bpm_sample_number"].read())
    final = derived["result"].read().isel(time=-1)
    result = {name: round(float(final[name].item()), 4) for name in ("mean_x", "mean_y", "rms_x")}
    error_mm = math.hypot(result["mean_x"] - X_MM, result["mean_y"] - Y_MM)
    return [
        DemoResult(
            plan="record_position",
            raw_uid=uid,
            derived_uids=[derived.metadata["start"]["uid"]],
            truth={"x_mm": X_MM, "y_mm": Y_MM, "samples": int(SECONDS * 1000)},
            result={**result, "samples": samples},
            ok=outcome.exit_status == "success"
            and error_mm < LIMIT_MM
            and samples >= 0.9 * SECONDS * 1000,
        )
    ]

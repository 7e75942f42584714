"""Demo of the shots: a scan of the delay stage on the simulated beamline, against the truth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skywright.cli.demos import DemoResult, wait_for_derived
from skywright.config import IocSettings
from skywright.instruments.sacla.demos.curve import Scan, chi2_per_dof, draw
from skywright.instruments.sacla.twin import SINGLE
from skywright.store.results import last_result

SEED, RATE_HZ = 5, 60.0
ROWS, COLUMNS, POOL = 512, 256, 384
"""Shots that share an image share its photon noise: with much fewer images than shots the points of
the curve are not independent, and chi2 grows although each error is right."""
START_PS, STOP_PS, POINTS = -0.8, 1.0, 10
SHOTS, ERROR = 60, 0.008
CHI2_LIMITS = 0.1, 3.0
"""Of one scan of 10 points; `make accuracy` has the mean over many."""
TIME_ZERO_SIGMA = 4.0
ROI = f"spot:{SINGLE}:40,60;215,60;215,450;40,450"


def iocs() -> dict[str, IocSettings]:
    """Return the shots of the simulated beamline."""
    args = (
        *("--source", "sim", "--seed", str(SEED), "--rate", str(RATE_HZ), "--roi", ROI),
        *("--rows", str(ROWS), "--columns", str(COLUMNS), "--pool", str(POOL)),
    )
    return {"sacla": IocSettings(module="iocs.sacla", prefix="SACLA1:", args=args)}


def run(session: Mapping[str, Any]) -> list[DemoResult]:
    """Find time zero by a delay scan, and compare the curve of the live analysis with the truth."""
    session["sacla_curves"].wait_ready()
    sacla, motor = session["sacla"], session["sacla_delay"]
    found = session["find_time_zero"](
        sacla, motor, START_PS, STOP_PS, POINTS, shots=SHOTS, error=ERROR
    )
    outcome = session["RE"](found)
    uid = outcome.run_start_uids[0]
    (derived,) = wait_for_derived(session["tiled"], uid, "sacla_curves")
    scan = read_back(session["stored"](uid), derived, true_response(sacla))
    zero = outcome.plan_result
    pictures = Path(session["settings"].directory) / "pictures"
    picture = draw(scan, zero, pictures / f"sacla-{uid[:8]}.png")
    chi2, dof = chi2_per_dof(scan)
    low, high = CHI2_LIMITS
    return [
        DemoResult(
            plan="find_time_zero",
            raw_uid=uid,
            derived_uids=[derived.metadata["start"]["uid"]],
            truth={"time_zero_ps": 0.0, "effect": scan.effect, "width_ps": scan.width_ps},
            result={
                "time_zero_ps": round(zero.delay_ps, 4),
                "time_zero_error_ps": round(zero.delay_error_ps, 4),
                "effect": round(zero.height, 4),
                "shots": len(scan.delay),
                "curve_chi2_per_dof": round(chi2, 2),
                "curve_bins": dof,
            },
            ok=outcome.exit_status == "success"
            and abs(zero.delay_ps) < TIME_ZERO_SIGMA * zero.delay_error_ps
            and low < chi2 < high,
            pictures=[str(picture)],
        )
    ]


def true_response(sacla: Any) -> tuple[float, float]:
    """Return height of the effect and width of its rise, ps, that the twin has."""
    return float(sacla.true_effect.get()), float(sacla.true_width.get())


def read_back(raw: Any, derived: Any, truth: tuple[float, float]) -> Scan:
    """Read a scan and its curve out of the catalog.

    Parameters
    ----------
    raw, derived
        Client nodes of the run and of its analysis.
    truth
        Of `true_response`.
    """
    last = last_result(derived)
    edges = np.array(derived.metadata["start"]["analysis"]["parameters"]["edges"])
    keys = ("accepted", "laser_on", "i0", "scanned", "sum_ev")
    stream = raw["shots"].read([f"sacla_{key}" for key in keys])
    rows = {key: stream[f"sacla_{key}"].values for key in keys}
    chosen = rows["accepted"] == 1
    images = {
        key: np.asarray(raw[f"images/sacla_image_d1_{key}"][-1:])[0]
        for key in ("mean", "mean_on", "mean_off")
    }
    return Scan(
        edges=edges,
        **{
            key: np.asarray(last[key])[0]
            for key in ("on_n", "off_n", "off_mean", "diff", "diff_sem")
        },
        delay=rows["scanned"][chosen],
        laser_on=rows["laser_on"][chosen] == 1,
        i0=rows["i0"][chosen],
        sums=rows["sum_ev"][chosen, 0],
        images=images,
        effect=truth[0],
        width_ps=truth[1],
    )

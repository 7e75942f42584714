"""Demo of EPU: a simulated visit of two grids, tracked live into tiled, against its truth."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.cli.demos import DemoResult, wait_for_derived
from skywright.config import IocSettings
from skywright.instruments.epu.decisions.analysis import CTF_LIMIT_A
from skywright.instruments.epu.demos.figure import GridQuality, draw
from skywright.instruments.epu.runs.query import last_rows
from skywright.instruments.epu.twin.visit import TwinGrid, plan_visit

SEED, GRIDS, SQUARES, IMAGED, HOLES = 7, 2, 25, 6, 12
SPEED = 160
"""The visit lasts 34 s: the session finds it begun, and follows its last part live."""
IDLE_S = 4.0


def iocs() -> dict[str, IocSettings]:
    """Return the watcher, over a visit that a twin writes."""
    options = {"seed": SEED, "grids": GRIDS, "squares": SQUARES, "imaged": IMAGED, "holes": HOLES}
    args = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    args += ["--source", "sim", "--speed", str(SPEED)]
    return {"epu": IocSettings(module="iocs.epu", prefix="EPU1:", args=tuple(args))}


def run(session: Mapping[str, Any]) -> list[DemoResult]:
    """Follow the visit to its end; compare what the catalog holds with the twin's truth."""
    outcome = session["RE"](session["track_epu"](session["epu"], idle=IDLE_S))
    uids = outcome.plan_result
    visit = plan_visit(SEED, GRIDS, SQUARES, imaged=IMAGED, holes=HOLES)
    directory = Path(session["settings"].directory) / "pictures"
    return [
        replace(
            _result(session["stored"](uid), visit.grids, directory),
            derived_uids=[
                derived.metadata["start"]["uid"]
                for derived in wait_for_derived(session["tiled"], uid, "epu_quality")
            ],
        )
        for uid in uids
    ]


def _result(run: Any, grids: list[TwinGrid], directory: Path) -> DemoResult:
    start = run.metadata["start"]
    grid = next(grid for grid in grids if str(grid.id + 2) == start["epu_session"])
    truth = grid.micrographs()
    micrographs = last_rows(run, "micrograph")
    ids = [text.decode() for text in micrographs["micrograph_id"]]
    micrographs["ctf_max_resolution_estimate"] = resolutions(run, micrographs["uuid"])
    estimated = dict(zip(ids, micrographs["ctf_max_resolution_estimate"].tolist(), strict=True))
    judged_good = {key for key, resolution in estimated.items() if resolution <= CTF_LIMIT_A}
    judged_right = sum((each.id in judged_good) == each.good for each in truth)
    picture = draw(
        grid_quality(run, micrographs), directory / f"epu-{start['uid'][:8]}.png", CTF_LIMIT_A
    )
    return DemoResult(
        plan="track_epu",
        raw_uid=start["uid"],
        truth={"micrographs": len(truth), "good": sum(each.good for each in truth)},
        result={
            "micrographs": len(ids),
            "good": len(judged_good),
            "judged_right": round(judged_right / len(truth), 3),
        },
        ok=len(ids) == len(truth) and estimated == {each.id: each.resolution for each in truth},
        pictures=[str(picture)],
    )


def resolutions(run: Any, uuids: NDArray[Any]) -> NDArray[np.float64]:
    """Return the CTF resolution of each micrograph in angstrom, NaN without results."""
    results = last_rows(run, "result")
    known = dict(zip(results["uuid"], results["ctf_max_resolution_estimate"], strict=True))
    return np.array([known.get(uuid, np.nan) for uuid in uuids])


def grid_quality(run: Any, micrographs: Mapping[str, NDArray[Any]]) -> GridQuality:
    """Return what a picture of the grid shows."""
    squares = last_rows(run, "gridsquare")
    holes = last_rows(run, "foilhole")
    resolution = micrographs["ctf_max_resolution_estimate"]
    share, count = _shares(squares["gridsquare_id"], micrographs["gridsquare_id"], resolution)
    best = squares["gridsquare_id"][int(np.nanargmax(share))]
    inside = holes["gridsquare_id"] == best
    hole_share, _ = _shares(holes["foilhole_id"][inside], micrographs["foilhole_id"], resolution)
    return GridQuality(
        run.metadata["start"]["epu_name"],
        np.column_stack([squares["center_x"], squares["center_y"]]),
        share,
        count,
        best.decode(),
        np.column_stack([holes["x_location"][inside], holes["y_location"][inside]]),
        hole_share,
        resolution,
    )


def _shares(
    ids: NDArray[Any], owners: NDArray[Any], resolution: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the share of good micrographs and their number, for each id."""
    shares, counts = np.full(len(ids), np.nan), np.zeros(len(ids), dtype=np.int64)
    for index, each in enumerate(ids):
        values = resolution[(owners == each) & np.isfinite(resolution)]
        counts[index] = len(values)
        if len(values):
            shares[index] = np.mean(values <= CTF_LIMIT_A)
    return shares, counts

"""Demo of the telescopes: a simulated run of four modules, its flashes against the truth."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.cli.demos import DemoResult, wait_for_derived
from skywright.config import IocSettings
from skywright.instruments.panoseti.demos.clients import StreamClients
from skywright.instruments.panoseti.demos.figure import Observed, draw
from skywright.store.results import last_result

SEED, SECONDS, FLASH_RATE_HZ = 4, 10.0, 10.0
SURE_SIGMA = 10.0
"""Flashes above this must be found, but for three."""
NEAR_NS = 200
CONNECT_S = 30.0


def iocs() -> dict[str, IocSettings]:
    """Return the modules, over the simulated array."""
    array = ("--source", "sim", "--seed", str(SEED), "--flash-rate", str(FLASH_RATE_HZ))
    args = (*array, "--grpc-port", "0")
    return {"panoseti": IocSettings(module="iocs.panoseti", prefix="PANO1:", args=args)}


def run(session: Mapping[str, Any]) -> list[DemoResult]:
    """Take ten seconds with four modules; compare the flash candidates with the flashes.

    Two clients stream live images meanwhile.
    """
    session["panoseti_flashes"].wait_ready()
    panoseti = session["panoseti"]
    panoseti.wait_for_connection(timeout=CONNECT_S)
    with StreamClients(f"127.0.0.1:{int(panoseti.grpc_port.get())}") as clients:
        outcome = session["RE"](session["observe"](panoseti, SECONDS))
    uid = outcome.run_start_uids[0]
    (derived,) = wait_for_derived(session["tiled"], uid, "panoseti_flashes")
    raw = session["stored"](uid)
    directory = Path(panoseti.data_dir.get()) / panoseti.run_name.get()
    last = last_result(derived)
    threshold = float(derived.metadata["start"]["analysis"]["parameters"]["threshold_adc"])
    observed = read_back(raw, last, threshold, directory.name)
    pictures = Path(session["settings"].directory) / "pictures"
    picture = draw(observed, pictures / f"panoseti-{uid[:8]}.png")
    result = _result(uid, derived, last, directory, picture, outcome.exit_status)
    return [_with_clients(result, clients, len(observed.modules))]


def _with_clients(result: DemoResult, clients: StreamClients, modules: int) -> DemoResult:
    """Add what the clients got: each must have had images of every module."""
    served = all(len(each) == modules for each in clients.received)
    return replace(
        result,
        result={**result.result, **clients.counts()},
        ok=result.ok and served and not clients.error,
    )


def _result(
    uid: str, derived: Any, last: Any, directory: Path, picture: Path, exit_status: str
) -> DemoResult:
    """Compare candidates and flashes by their times."""
    times, sigma = true_flashes(directory)
    count = int(last["n_candidates"])
    found = np.sort(np.asarray(last["candidate_time_ns"])[:count])
    sure = sigma >= SURE_SIGMA
    seen = is_near(times, found)
    missed = int((sure & ~seen).sum())
    false = int((~is_near(found, np.sort(times))).sum())
    expected = float(last["n_expected"])
    return DemoResult(
        plan="observe",
        raw_uid=uid,
        derived_uids=[derived.metadata["start"]["uid"]],
        truth={"flashes": len(times), "above_10_sigma": int(sure.sum())},
        result={
            "events": int(last["n_events"]),
            "candidates": count,
            "missed_above_10_sigma": missed,
            "false": false,
            "expected_by_chance": round(expected, 4),
        },
        ok=exit_status == "success"
        and sure.sum() > 0
        and missed <= 3
        and false <= 2 * expected + 3,
        pictures=[str(picture)],
    )


def true_flashes(directory: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return time in ns and height in noise sigma of the flashes of a simulated run."""
    from skywright.instruments.panoseti.twin.run import TRUTH

    flashes = json.loads((directory / TRUTH).read_text())["flashes"]
    times = np.array([flash["time_ns"] for flash in flashes], np.int64)
    return times, np.array([flash["sigma"] for flash in flashes], np.float64)


def is_near(times: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each time whether one of the sorted others is within 200 ns."""
    if not len(others):
        return np.zeros(len(times), bool)
    place = np.searchsorted(others, times)
    before = others[np.maximum(place - 1, 0)]
    after = others[np.minimum(place, len(others) - 1)]
    return np.minimum(np.abs(times - before), np.abs(times - after)) <= NEAR_NS


def read_back(raw: Any, last: Any, threshold_adc: float, title: str) -> Observed:
    """Read what the picture shows out of the catalog."""
    names = ("time_ns", "module", "quabo", "largest", "slot", "row")
    stream = raw["events"].read([f"panoseti_events_{name}" for name in names])
    events = {name: stream[f"panoseti_events_{name}"].values for name in names}
    slots, first = np.unique(events["slot"], return_index=True)
    means = [raw[f"m{slot + 1}_img16/panoseti_m{slot + 1}_img16_image"].read().mean(axis=0)
             for slot in slots.tolist()]  # fmt: skip
    count = min(int(last["n_candidates"]), last["candidate_time_ns"].size)
    begin = int(events["time_ns"].min())
    heights = np.asarray(last["candidate_largest"])[:count]
    return Observed(
        title=title,
        modules=events["module"][first].tolist(),
        means=np.array(means),
        seconds=(events["time_ns"] - begin) / 1e9,
        largest=events["largest"],
        module=events["module"],
        candidate_seconds=(np.asarray(last["candidate_time_ns"])[:count] - begin) / 1e9,
        candidate_largest=heights,
        brightest=_brightest(raw, last, events, int(heights.argmax())) if count else [],
        threshold_adc=threshold_adc,
    )


def _brightest(
    raw: Any, last: Any, events: Mapping[str, NDArray[Any]], candidate: int
) -> list[tuple[str, NDArray[np.int16]]]:
    """Return the frames of a candidate, the brightest of each module, by their rows."""
    rows = np.asarray(last["candidate_rows"])[candidate]
    rows = rows[rows >= 0]
    frames = []
    for module in np.unique(events["module"][rows]).tolist():
        of_module = rows[events["module"][rows] == module]
        row = int(of_module[events["largest"][of_module].argmax()])
        name = f"m{int(events['slot'][row]) + 1}_ph256"
        place = int(events["row"][row])
        image = np.asarray(raw[f"{name}/panoseti_{name}_image"][place : place + 1])[0]
        frames.append((f"module {module}, quabo {int(events['quabo'][row])}", image))
    return frames

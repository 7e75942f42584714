"""Shots over Channel Access into tiled: running images while they come, and from stored frames."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from ioc_process import running_ioc
from store.stack import Stack
from support.limits import ALL_FRAMES
from support.reprocessing import reprocess, wait_until_stored

from devices.motion import Motor
from devices.sacla.shots import Shots
from plans.sacla.shots import acquire_shots
from skywright.callbacks.journal import Journal
from skywright.callbacks.live import LiveAnalysis
from skywright.instruments.sacla.layouts import IMAGE_KEYS
from skywright.instruments.sacla.regions import parse_region
from skywright.instruments.sacla.replay import replay
from skywright.instruments.sacla.replay_run import choose_file, recorded_files, replay_of
from skywright.instruments.sacla.shot_values import ShotValues, value_names
from skywright.store.client import RAW
from skywright.store.lookup import derived_runs
from skywright.store.results import last_result
from skywright.store.stored_run import run_documents

ROWS, COLUMNS, SHOTS = 64, 48, 240
PIXEL_EV = 0.02 * 10_000
"""Mean energy of a pixel at I0 = 1 V without the pump laser: the twin's photons a pixel."""
EFFECT = 0.2
WHOLE = [f"t{k}:MPCCD-8N0-3-002-{k}:-1,-1;60,-1;60,70;-1,70" for k in (1, 2)]
ARGS = (
    *("--source", "sim", "--seed", "7", "--rate", "60", "--tiles", "2", "--pool", "96"),
    *("--rows", str(ROWS), "--columns", str(COLUMNS), "--image-period", "0.5"),
    *(word for region in WHOLE for word in ("--roi", region)),
)


def live_and_again(
    RE: RunEngine,
    stack: Stack,
    names: tuple[str, str],
    prepare: Callable[[Shots, str], None] = lambda sacla, prefix: None,
) -> tuple[Any, Any, Any]:
    """Take shots; return the run, that of the first analysis, live, and of the second, after."""
    store = stack.directory
    live = LiveAnalysis(
        names[0], {}, journal=stack.journals, assets=store / "assets", limits=ALL_FRAMES
    )
    try:
        with running_ioc("iocs.sacla", *ARGS) as ioc:
            sacla = Shots(ioc.prefix, assets=store / "assets", name="sacla")
            sacla.wait_for_connection(timeout=120)
            sacla.silence_limit.put(60.0)
            prepare(sacla, ioc.prefix)
            journal = Journal(stack.journals)
            RE.subscribe(journal)
            RE.subscribe(live)
            live.wait_ready()
            with stack.ingester():
                uid = RE(acquire_shots(sacla, SHOTS)).plan_result
                done = live.wait(raw_uid=uid, timeout_s=300)
                assert done.error == ""
                for each in (uid, done.derived_uid or ""):
                    stack.done(each)
                raw = stack.client()[RAW][uid]
                (again,) = reprocess(raw, names[1], store=store)
                wait_until_stored(stack.client(), again.derived_uid, 600.0)
            journal.close()
    finally:
        live.close()
    runs = {run.metadata["start"]["uid"]: run for run in derived_runs(stack.client(), uid)}
    return raw, runs[done.derived_uid], runs[again.derived_uid]


def long_after_time_zero(sacla: Shots, prefix: str) -> None:
    """Record every frame; the laser has its full effect."""
    sacla.frames_every.set(1).wait(90)
    motor = Motor(f"{prefix}delay", name="sacla_delay")
    motor.wait_for_connection(timeout=120)
    motor.set(3.0).wait(90)


def test_images_of_a_run_are_in_the_catalog_and_the_same_again_from_its_frames(
    RE: RunEngine, stack: Stack
) -> None:
    names = ("sacla_images", "sacla_frame_images")
    raw, derived, stored = live_and_again(RE, stack, names, long_after_time_zero)
    measuring = derived.metadata["start"]["analysis"]["parameters"]["measuring"]
    assert measuring == stored.metadata["start"]["analysis"]["parameters"]["measuring"]
    assert [each["gain"] for each in measuring["detectors"]] == [15.0, 15.0]
    found, expected = last_result(derived), last_result(stored)

    # The same bits, of exactly the accepted shots of the run.
    rows = {key: raw[f"primary/sacla_{key}"].read() for key in ("accepted", "laser_on", "i0")}
    accepted, on = rows["accepted"] == 1, rows["laser_on"] == 1
    assert len(accepted) == SHOTS
    assert (found["n_on"], found["n_off"]) == ((accepted & on).sum(), (accepted & ~on).sum())
    for key in ("n_on", "n_off", *(f"{name}_{key}" for name in ("d1", "d2") for key in IMAGE_KEYS)):
        assert found[key].dtype == expected[key].dtype
        assert found[key].tobytes() == expected[key].tobytes(), key

    # A replay file of the run gives the sums of its rows, and the curves of its analysis.
    run = stack.client()[RAW][raw.metadata["start"]["uid"]]
    (again,) = reprocess(run, "sacla_curves", store=stack.directory)
    out = stack.directory / "replay.h5"
    replay_of(choose_file(recorded_files(run_documents(run, stack.journals)), None), out)
    regions = [parse_region(each) for each in WHOLE]
    report = replay(out, regions, np.linspace(-2.0, 3.0, 41)).values
    sums = raw["primary/sacla_sum_ev"].read()
    for k, region in enumerate(regions):
        assert report["rois"][region.name]["sum_ev"] == sums[accepted, k].tolist()
    assert report["counts"]["accepted"] == again.result["n_on"] + again.result["n_off"]
    assert report["counts"]["accepted_on"] == again.result["n_on"]

    # In the course of the run there were images of fewer shots.
    events = derived["result"].read()
    assert int(events["n_on"].values[0]) < int(found["n_on"])
    assert len(derived["arrays/d1_mean"].read()) >= 2

    for name in ("d1", "d2"):
        # Against plain numpy over the frames ...
        frames = raw[f"frames/sacla_frame_{name}"].read().astype(float) * 15.0 * 3.65
        frames[frames < 1000.0] = 0.0
        mean, good = found[f"{name}_mean"], np.isfinite(found[f"{name}_mean"])
        assert 0.9 < good.mean() < 1.0  # a dead column and bad pixels
        plain = {"mean": frames[accepted].mean(axis=0), "max": frames[accepted].max(axis=0)}
        plain["var"] = frames[accepted].var(axis=0, ddof=1)
        plain["diff"] = frames[accepted & on].mean(axis=0) - frames[accepted & ~on].mean(axis=0)
        for key, image in plain.items():
            np.testing.assert_allclose(
                found[f"{name}_{key}"][good], image[good], rtol=1e-5, atol=1e-2, err_msg=key
            )
        # ... and against the truth: some 60 photons in an image, so 3 % in the mean of an image.
        i0 = {side: rows["i0"][accepted & (on == side)].mean() for side in (True, False)}
        off, lit = PIXEL_EV * i0[False], PIXEL_EV * (1 + EFFECT) * i0[True]
        assert found[f"{name}_mean_off"][good].mean() == pytest.approx(off, rel=0.08)
        assert found[f"{name}_mean_on"][good].mean() == pytest.approx(lit, rel=0.08)
        share = on[accepted].mean()
        assert mean[good].mean() == pytest.approx(share * lit + (1 - share) * off, rel=0.06)


def test_correlations_of_a_run_are_live_and_those_of_the_stored_rows(
    RE: RunEngine, stack: Stack
) -> None:
    raw, derived, stored = live_and_again(RE, stack, ("sacla_values", "sacla_values"))
    found, expected = last_result(derived), last_result(stored)
    for key in (column.path for column in ShotValues().results):
        assert np.asarray(found[key]).tobytes() == np.asarray(expected[key]).tobytes(), key

    keys = ("accepted", "laser_on", "i0", "sum_ev")
    rows = {key: raw[f"primary/sacla_{key}"].read() for key in keys}
    off = (rows["accepted"] == 1) & (rows["laser_on"] == 0)
    names = value_names(16)
    place = names.index("i0"), names.index("sum_1")
    plain = np.corrcoef(rows["i0"][off], rows["sum_ev"][off, 0])[0, 1]
    assert found["n_off"] == found["off_pairs"][place] == off.sum() > 30
    assert found["off_r"][place] == pytest.approx(plain, rel=1e-9)

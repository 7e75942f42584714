"""A run's documents followed to the angle of the spindle at each picture."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_model import compose_run, compose_stream_resource, pack_event_page
from support.seen_rotation import CALIBRATION, TIP

from devices.loop.oscillation import COLUMNS, ROW
from skywright.errors import DataError
from skywright.files.columns import Column, ColumnWriter
from skywright.instruments.loop.geometry import observe
from skywright.instruments.loop.spindle import TURNS, RunSpindle, turns_both_ways
from skywright.instruments.loop.timing import Trace, fit_delay

STREAM = {"source": "TEST", "shape": [], "dtype": "number", "external": "STREAM:"}
IMAGE = {"source": "TEST", "shape": [48, 64], "dtype": "array", "external": "STREAM:"}


def tell(
    turn: RunSpindle, key: str, path: Path, dataset: str, descriptor: str, *ranges: Any
) -> None:
    """Announce rows of a dataset: (first row, last + 1, first sequence number) each."""
    bundle = compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=f"file://localhost{path}",
        data_key=key,
        parameters={"dataset": dataset},
    )
    turn("stream_resource", dict(bundle.stream_resource_doc))
    for start, stop, first in ranges:
        numbers = {"start": first, "stop": first + stop - start}
        doc = {
            **bundle.compose_stream_datum({"start": start, "stop": stop}),
            "seq_nums": numbers,
            "descriptor": descriptor,
        }
        turn("stream_datum", doc)


def read_spindle(
    path: Path,
    times: np.ndarray,
    angles: np.ndarray,
    announced: int | None = None,
    sweep: Any = 0,
    keys: Collection[str] = tuple(COLUMNS),
) -> RunSpindle:
    """A run with readings of the spindle in a file, and four pictures in another stream.

    `keys` are the columns that the run has told of.
    """
    count = len(times)
    with ColumnWriter(path, list(COLUMNS.values()), ROW) as writer:
        values = {"time": times, "angle": angles, "open": np.ones(count)}
        values["sweep"] = np.broadcast_to(sweep, (count,))
        rows: dict[str, Any] = {COLUMNS[key].path: value for key, value in values.items()}
        writer.append(np.arange(count), rows)
    run = compose_run()
    turn = RunSpindle(run.start_doc)
    told = {f"osc_{key}": STREAM for key in keys}
    trace = run.compose_descriptor(name="oscillation", data_keys=told).descriptor_doc
    pictures = run.compose_descriptor(name="primary", data_keys={"axis_image": IMAGE})
    turn("descriptor", trace)
    turn("descriptor", pictures.descriptor_doc)
    tell(turn, "axis_image", path.with_name("axis.h5"), "/data", "p", (0, 4, 1))
    last = announced or count
    for key in keys:
        tell(turn, f"osc_{key}", path, COLUMNS[key].path, trace["uid"], (0, 2, 1), (2, last, 3))
    return turn


@pytest.fixture
def flown(tmp_path: Path) -> RunSpindle:
    """60 deg/s from 10 deg, read every 0.1 s."""
    times = 1e9 + 0.1 * np.arange(31)
    return read_spindle(tmp_path / "trace.h5", times, 10.0 + 60.0 * (times - 1e9))


def test_angles_of_a_sweep_go_by_time_and_delay(flown: RunSpindle) -> None:
    assert flown.turns
    flown.start = {**flown.start, TURNS: False}  # as the run of a plan that moves the stages alone
    assert not flown.turns
    assert flown.shape == (48, 64)
    assert flown.images is not None
    assert flown.images[1] == "/data"
    trace = flown.trace()
    assert trace is not None
    times = 1e9 + np.array([0.05, 1.0, 3.05, 4.0])
    angles = flown.angles(times, np.arange(len(times)), trace, 0.05)
    np.testing.assert_allclose(angles[:3], [10.0, 67.0, 190.0], atol=1e-3)
    assert np.isnan(angles[3])  # after the last reading nobody knows


def test_a_reading_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    angles = np.array([10.0, np.nan, 30.0, 40.0])
    turn = read_spindle(tmp_path / "trace.h5", np.array([1.0, 2.0, 3.0, np.nan]), angles)
    trace = turn.trace()
    assert trace is not None
    assert (trace.time_s.tolist(), trace.phi_deg.tolist()) == ([1.0, 3.0], [10.0, 30.0])


def test_a_file_with_fewer_readings_than_were_announced_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.h5"
    turn = read_spindle(path, np.arange(4.0), np.arange(4.0), announced=9)
    with pytest.raises(DataError, match=f"{path}: has 4 rows, 9 were announced"):
        turn.trace()


def test_a_run_that_has_not_turned_has_no_trace(flown: RunSpindle) -> None:
    turn = RunSpindle(flown.start)
    assert not turn.turns
    assert turn.trace() is None


def test_pictures_after_skipped_ones_keep_their_rows(flown: RunSpindle, tmp_path: Path) -> None:
    assert flown.rows(np.array([7, 9])).tolist() == [0, 1]  # a camera that does not number them
    run = compose_run()
    turn = RunSpindle(run.start_doc)
    keys = {"axis_image": IMAGE, "axis_frame_number": STREAM}
    pictures = run.compose_descriptor(name="primary", data_keys=keys).descriptor_doc
    turn("descriptor", pictures)
    path, number = tmp_path / "axis.h5", Column("/entry/frame_number", "<i4")
    with ColumnWriter(path, [], number) as writer:
        writer.append(np.array([11, 12, 14, 15, 16]), {})
    tell(turn, "axis_frame_number", path, number.path, pictures["uid"], (0, 5, 1))
    assert turn.rows(np.array([12, 15, 16])).tolist() == [1, 3, 4]
    with pytest.raises(DataError, match="lacks pictures"):
        turn.rows(np.array([12, 13]))


def stepped(places: list[float], numbers: list[int], in_page: bool = False) -> RunSpindle:
    """Pictures at rest at 0, 10, 20 ... deg; `numbers` are the sequence numbers of their rows."""
    run = compose_run(metadata={"angle_key": "phi", "place_keys": ["x"]})
    turn = RunSpindle(run.start_doc)
    keys = {"axis_image": IMAGE, "phi": {**STREAM}, "x": {**STREAM}}
    for key in ("phi", "x"):
        keys[key].pop("external")
    descriptor = run.compose_descriptor(name="primary", data_keys=keys).descriptor_doc
    turn("descriptor", descriptor)
    rows = [(row, row + 1, number) for row, number in enumerate(numbers)]
    tell(turn, "axis_image", Path("/nowhere.h5"), "/data", descriptor["uid"], *rows)
    events = [
        {
            **{"descriptor": descriptor["uid"], "seq_num": number, "uid": f"{number}"},
            **{"data": {"phi": 10.0 * (number - 1), "x": place}, "timestamps": {"phi": 0, "x": 0}},
            **{"time": 0.0, "filled": {}},
        }
        for number, place in enumerate(places, 1)
    ]
    if in_page:
        turn("event_page", pack_event_page(*events))  # type: ignore[arg-type]
    for event in events if not in_page else ():
        turn("event", event)
    return turn


@pytest.mark.parametrize("in_page", [False, True])
def test_angles_of_steps_go_by_sequence_number(in_page: bool) -> None:
    # Taken twice after a resume; one without event
    turn = stepped([5.0, 5.0, 5.0], [1, 2, 2, 3, 4], in_page)
    angles = turn.angles(np.zeros(5), np.arange(5), None, 0.1)
    np.testing.assert_array_equal(angles, [0.0, 10.0, 10.0, 20.0, np.nan])


def test_pictures_of_the_sample_elsewhere_have_no_angle() -> None:
    turn = stepped([0.0, 500.0, 500.4], [1, 2, 3])
    angles = turn.angles(np.zeros(3), np.arange(3), None, 0.0)
    np.testing.assert_array_equal(angles, [np.nan, 10.0, 20.0])


@pytest.mark.parametrize(
    ("ends", "both"),
    [([0.0, 180.0], False), ([0.0, 180.0, 0.0], True), ([0.0, 180.0, 150.0], False)],
)
def test_a_delay_needs_both_senses(ends: list[float], both: bool) -> None:
    trace = Trace(np.arange(float(len(ends))), np.array(ends))
    assert turns_both_ways(trace) is both


LEAD_DEG, REST_S = 6.0, 60.0
"""Way of the run-down after a sweep, from which the spindle goes back; rest between two sweeps."""
SPEED = 60.0
"""deg/s."""


def two_sweeps(path: Path, *columns: str) -> RunSpindle:
    """From -6 to 186 deg, a rest at 180 deg, then from 186 to -6 deg; 60 deg/s, read at 20 Hz."""
    there = np.arange(-LEAD_DEG, 180.1 + LEAD_DEG, SPEED / 20)
    times = 1e9 + np.arange(len(there)) / 20
    return read_spindle(
        path,
        np.concatenate([times, times + times[-1] - times[0] + REST_S]),
        np.concatenate([there, there[::-1]]),
        sweep=np.repeat([0, 1], len(there)),
        keys=columns or tuple(COLUMNS),
    )


def test_pictures_between_two_sweeps_have_no_angle(tmp_path: Path) -> None:
    times = 1e9 + np.array([1.0, 3.2, 30.0, REST_S + 3.2, REST_S + 4.2])
    new = two_sweeps(tmp_path / "new.h5")
    old = two_sweeps(tmp_path / "old.h5", "time", "angle", "open")
    end = 180.0 + LEAD_DEG
    for turn, rest in ((new, np.nan), (old, end)):
        angles = turn.angles(times, np.arange(5), turn.trace(), 0.0)
        expected = [SPEED - LEAD_DEG, rest, rest, end, end - SPEED]
        np.testing.assert_allclose(angles, expected, atol=1e-6)


def test_a_rest_before_a_sweep_is_repeated_leaves_the_delay_known(tmp_path: Path) -> None:
    """A pause ends the first sweep at 120 deg, and pictures come for a minute."""
    there = np.arange(-LEAD_DEG, 180.1 + LEAD_DEG, SPEED / 20)
    sweeps = [there[there <= 120.0], there, there[::-1]]
    starts = 0.0, len(sweeps[0]) / 20 + REST_S, (len(sweeps[0]) + len(there)) / 20 + REST_S + 0.5
    times = [start + np.arange(len(each)) / 20 for start, each in zip(starts, sweeps, strict=True)]
    sweep = np.repeat([0, 1, 2], [len(each) for each in sweeps])
    given = np.concatenate(times), np.concatenate(sweeps)
    trace = read_spindle(tmp_path / "trace.h5", *given, sweep=sweep).trace()
    assert trace is not None
    exposed = np.arange(0.1, times[-1][-1] - 0.1, 1 / 30)
    phi = np.interp(exposed, *given)
    phi[(exposed > times[0][-1]) & (exposed < times[1][0])] = 120.0
    tips = observe(TIP, phi, CALIBRATION.view, CALIBRATION.axis_px)
    tips += np.random.default_rng(1).normal(0.0, 0.3, tips.shape)
    found = fit_delay(trace, exposed + 0.15, tips, CALIBRATION.view)
    assert found.ok, found.why
    assert found.delay_s == pytest.approx(0.15, abs=4.0 * found.sigma_s)


def test_the_way_back_to_a_repeated_sweep_is_no_turn_back(tmp_path: Path) -> None:
    """A pause ends a sweep; the spindle goes back and makes the whole of it."""
    angles = np.concatenate([np.arange(-6.0, 121.0, 3.0), np.arange(-6.0, 367.0, 3.0)])
    sweep = np.cumsum(np.diff(angles, prepend=-6.0) < 0.0)
    trace = read_spindle(tmp_path / "a.h5", np.arange(len(angles)), angles, sweep=sweep).trace()
    assert trace is not None
    assert not turns_both_ways(trace)
    both = two_sweeps(tmp_path / "b.h5").trace()
    assert both is not None
    assert turns_both_ways(both)

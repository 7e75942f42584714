"""A run's documents followed to the angle of the spindle at each picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_model import compose_run, compose_stream_resource, pack_event_page

from devices.loop.oscillation import COLUMNS, ROW
from skywright.errors import DataError
from skywright.files.columns import Column, ColumnWriter
from skywright.instruments.loop.spindle import TURNS, RunSpindle, turns_both_ways
from skywright.instruments.loop.timing import Trace

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
    path: Path, times: np.ndarray, angles: np.ndarray, announced: int | None = None
) -> RunSpindle:
    """A run with readings of the spindle in a file, and four pictures in another stream."""
    count = len(times)
    with ColumnWriter(path, list(COLUMNS.values()), ROW) as writer:
        values = {"time": times, "angle": angles, "open": np.ones(count), "sweep": np.zeros(count)}
        rows: dict[str, Any] = {COLUMNS[key].path: value for key, value in values.items()}
        writer.append(np.arange(count), rows)
    run = compose_run()
    turn = RunSpindle(run.start_doc)
    keys = {f"osc_{key}": STREAM for key in COLUMNS}
    trace = run.compose_descriptor(name="oscillation", data_keys=keys).descriptor_doc
    pictures = run.compose_descriptor(name="primary", data_keys={"axis_image": IMAGE})
    turn("descriptor", trace)
    turn("descriptor", pictures.descriptor_doc)
    tell(turn, "axis_image", path.with_name("axis.h5"), "/data", "p", (0, 4, 1))
    last = announced or count
    for key, column in COLUMNS.items():
        tell(turn, f"osc_{key}", path, column.path, trace["uid"], (0, 2, 1), (2, last, 3))
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

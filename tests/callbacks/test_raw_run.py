"""Which data keys of a stream are an analysis's inputs."""

from pathlib import Path
from typing import Any

import pytest
from support.composed import ComposedRun

from skywright.analysis import ArrayInput
from skywright.callbacks.raw_run import RawRun, RequiredKeys
from skywright.callbacks.run_ids import RunIds
from skywright.errors import DataError
from skywright.instruments.loop.analysis import LoopDetection


def key(*shape: int | None, dtype: str | None = "<u2") -> dict[str, Any]:
    described: dict[str, Any] = {"shape": list(shape), "dtype": "array", "source": ""}
    return described if dtype is None else {**described, "dtype_numpy": dtype}


@pytest.mark.parametrize(
    ("described", "fits"),
    [
        (key(), False),  # a count whose name ends alike
        (key(32, 32), False),  # a telescope's module
        (key(1024, 512, dtype="<f4"), False),  # an X-ray detector's tile
        (key(480, 704, dtype="|u1"), True),
        (key(480, 704, 3, dtype="|u1"), True),
        (key(480, 704), False),  # a camera of 12 bits: the detection takes 8
        (key(480, 704, dtype=None), True),  # a device that does not tell
        (key(None, None, dtype="|u1"), True),
    ],
)
def test_loop_detection_takes_pictures_of_video_cameras_only(
    described: dict[str, Any], fits: bool
) -> None:
    wanted = RequiredKeys.of(LoopDetection, {})
    found = wanted.find({"cam_image": described, "cam_frame_number": key()})
    assert found == ({"image": "cam_image", "frame_number": "cam_frame_number"} if fits else None)


def test_a_key_that_the_user_names_is_taken_whatever_it_is() -> None:
    wanted = RequiredKeys.of(LoopDetection, {"image": "m1_image"})
    assert wanted.find({"m1_image": key(32, 32)}) == {"image": "m1_image"}


def test_a_key_that_the_user_names_is_taken_though_another_ends_alike() -> None:
    wanted = RequiredKeys(("image",), "number", "time", {"image": "cam_image"})
    two = {"side_cam_image": key(4, 4), "cam_image": key(4, 4)}
    assert wanted.find(two) == {"image": "cam_image"}


def test_the_one_that_fits_is_taken_of_two() -> None:
    wanted = RequiredKeys(("image",), "number", "time", arrays={"image": ArrayInput(2)})
    assert wanted.find({"a_image": key(), "b_image": key(4, 4)}) == {"image": "b_image"}
    with pytest.raises(DataError, match="a_image, b_image all fit the input 'image'"):
        wanted.find({"a_image": key(4, 4), "b_image": key(4, 4)})


@pytest.mark.parametrize("selected", ["3:5", "3:None", "3:5:1, ...", ["3:5", ":", ":"]])
def test_index_0_is_the_first_row_of_the_slice_of_a_resource(
    tmp_path: Path, selected: str | list[str]
) -> None:
    """The rows without an event of an interrupted run are the last ones of the file."""
    raw = RawRun({}, RequiredKeys(("image",), "number", "time"))
    name, image = "primary_after_last_event", key(4, 4) | {"external": "STREAM:"}
    run = ComposedRun(raw).stream(name, cam_image=image)
    path, dataset = tmp_path / "a.h5", "/entry/image"
    run.file("cam_image", path, (0, 2, 1), stream=name, dataset=dataset, slice=selected)
    table = raw.streams[name].table
    assert table is not None
    assert [(row.start, row.stop) for row in table.in_files["image"].segments] == [(3, 5)]


def test_streams_of_one_camera_have_the_rows_that_their_documents_name(tmp_path: Path) -> None:
    """The resource comes once; seq_nums may be empty; a configuration that changes is no stream."""
    wanted = RequiredKeys(("image",), "number", "time")
    raw = RawRun({"uid": "run"}, wanted)
    keys = {"cam_image": key(4, 4) | {"external": "STREAM:"}}
    resource = {"uid": "r", "data_key": "cam_image", "mimetype": "application/x-hdf5"}
    resource |= {"uri": f"file://localhost{tmp_path}/a.h5", "parameters": {"dataset": "/image"}}

    def datum(descriptor: str, start: int, stop: int, seq_num: int, end: int) -> None:
        ranges = {"indices": {"start": start, "stop": stop}}
        ranges |= {"seq_nums": {"start": seq_num, "stop": end}}
        raw("stream_datum", {"stream_resource": "r", "descriptor": descriptor, **ranges})

    for name in ("baseline", "dark"):
        raw("descriptor", {"uid": name, "name": name, "data_keys": keys})
    raw("stream_resource", resource)
    datum("dark", 0, 2, 1, 3)
    for uid in ("one", "two"):
        raw("descriptor", {"uid": uid, "name": "primary", "data_keys": keys})
    datum("one", 2, 5, 0, 0)
    datum("two", 5, 6, 0, 0)
    tables = {name: stream.table for name, stream in raw.streams.items()}
    assert list(tables) == ["dark", "primary"]
    for name, rows, numbers in (("dark", (0, 2), [1, 2]), ("primary", (2, 6), [1, 2, 3, 4])):
        table = tables[name]
        assert table is not None
        assert [(s.start, s.stop) for s in table.in_files["image"].segments] == [rows]
        assert table.sequence(0, table.announced()) == numbers


@pytest.mark.parametrize("kind", ["FILESTORE:", "OLD!"])
def test_an_identity_in_documents_that_are_not_read_is_the_sequence_number(kind: str) -> None:
    raw = RawRun({"uid": "run"}, RequiredKeys(("image",), "number", "time"))
    keys = {"cam_image": key(4, 4), "cam_number": key() | {"external": kind}}
    raw("descriptor", {"uid": "one", "name": "primary", "data_keys": keys})
    raw("event", {"descriptor": "one", "seq_num": 1, "data": {"cam_image": [], "cam_number": "d"}})
    table = raw.streams["primary"].table
    assert table is not None
    assert (table.announced(), table.identity) == (1, None)


@pytest.mark.parametrize("configuration", [None, {"det": None}, {"det": {"data": None}}])
def test_a_stream_without_a_configuration_is_read(configuration: Any) -> None:
    raw = RawRun({"uid": "run"}, RequiredKeys(("x",), "number", "time"))
    doc = {"uid": "one", "name": "primary", "data_keys": {"x": key()}}
    raw("descriptor", doc | {"configuration": configuration})
    assert raw.streams["primary"].configuration == {}


@pytest.mark.parametrize("keep_values", [True, False])
def test_values_of_a_stream_whose_configuration_changes_are_counted(keep_values: bool) -> None:
    required = RequiredKeys(("x",), "number", "time")
    raw = RawRun({"uid": "run"}, required, keep_values=keep_values)
    for uid in ("one", "two"):
        raw("descriptor", {"uid": uid, "name": "primary", "data_keys": {"det_x": key()}})
    page = {"descriptor": "two", "uid": ["b", "c"], "time": [0.0, 0.0], "seq_num": [2, 3]}
    page |= {"data": {"det_x": [2.0, 3.0]}, "timestamps": {"det_x": [0.0, 0.0]}}
    raw("event", {"descriptor": "one", "seq_num": 1, "data": {"det_x": 1.0}})
    raw("event_page", page)
    table = raw.streams["primary"].table
    assert table is not None
    assert table.announced() == 3
    assert table.values == {"x": {1: 1.0, 2: 2.0, 3: 3.0} if keep_values else {3: 3.0}}


def test_documents_of_mixed_runs_are_of_their_run_until_it_stops() -> None:
    ids = RunIds()
    for run in ("a", "b"):
        assert ids.of("start", {"uid": run}) == run
        assert ids.of("descriptor", {"uid": f"{run}/d", "run_start": run}) == run
        assert ids.of("stream_resource", {"uid": f"{run}/r", "run_start": run}) == run
    for run in ("a", "b"):
        assert ids.of("event", {"descriptor": f"{run}/d"}) == run
        assert ids.of("datum", {"resource": f"{run}/r"}) == run
    assert ids.of("stop", {"run_start": "a"}) == "a"
    assert ids.of("event", {"descriptor": "a/d"}) is None
    assert ids.of("event", {"descriptor": "b/d"}) == "b"


@pytest.mark.parametrize("second", [2, 0])
def test_the_indices_of_a_further_file_go_on_or_begin_again(tmp_path: Path, second: int) -> None:
    """The store reads them alike: `skywright.store.journal_contents.ExternalRows`."""
    raw = RawRun({}, RequiredKeys(("image",), "number", "time"))
    run = ComposedRun(raw).stream("primary", cam_image=key(4, 4) | {"external": "STREAM:"})
    for name, first, seq_num in (("a.h5", 0, 1), ("b.h5", second, 3)):
        ranges = (first, first + 1, seq_num), (first + 1, first + 2, seq_num + 1)
        run.file("cam_image", tmp_path / name, *ranges, dataset="/entry/image")
    table = raw.streams["primary"].table
    assert table is not None
    found = [
        (Path(each.path).name, each.start, each.stop) for each in table.in_files["image"].segments
    ]
    assert found == [("a.h5", 0, 2), ("b.h5", 0, 2)]

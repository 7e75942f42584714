"""The camera as a device: documents, limits, and what happens when the other side fails."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.utils import MsgGenerator
from ioc_process import IocProcess, running_ioc
from support import forked
from support.documents import Documents, assembled, file_of, of
from support.pausing import is_event, pause_once
from support.recording_faults import check_absent, check_bad_directory, check_kill, failing

from devices.loop.axis import AxisCamera
from plans.pictures import take_pictures, watch_camera
from skywright.errors import HardwareError
from skywright.files.columns import ColumnReader
from skywright.instruments.loop import layouts as layout

SHAPE = (240, 352)
ARGUMENTS = ("--seed", "5", "--fps", "40", "--size", "352x240", "--turn", "30")


@pytest.fixture(scope="module")
def ioc() -> Iterator[IocProcess]:
    with running_ioc("iocs.axis", *ARGUMENTS) as process:
        yield process


@pytest.fixture
def camera(ioc: IocProcess, tmp_path: Path) -> AxisCamera:
    return AxisCamera(ioc.prefix, assets=tmp_path, name="axis")


def test_keys(camera: AxisCamera) -> None:
    camera.wait_for_connection(timeout=60)
    assert list(camera.read()) == ["axis_captured", "axis_lost"]
    assert list(camera.read_configuration()) == [
        "axis_width",
        "axis_height",
        "axis_silence_limit",
        "axis_acquire_period",
        "axis_color_mode",
        "axis_manufacturer",
        "axis_model",
    ]
    assert camera.hints == {"fields": ["axis_captured"]}
    external = camera.describe_collect()
    assert list(external) == ["axis_image", "axis_frame_number", "axis_frame_time"]
    assert external["axis_image"]["shape"] == list(SHAPE)
    assert external["axis_image"]["dtype_numpy"] == "|u1"
    assert external["axis_frame_time"]["units"] == "s"
    assert list(camera.describe()) == [*camera.read(), *external]


@pytest.mark.parametrize("runs", [1, 2])
def test_each_stream_of_each_run_has_its_rows(
    RE: Any, camera: AxisCamera, documents: Documents, runs: int
) -> None:
    """Two streams of one run, or of two runs under one stage."""

    @bpp.stage_decorator([camera])
    def two_streams() -> MsgGenerator[None]:
        for number, name in enumerate(("primary", "dark")):
            if number < runs:
                yield from bps.open_run()
            yield from bps.trigger_and_read([camera], name=name)
            if number == 1 or runs == 2:
                yield from bps.close_run()

    RE(two_streams())
    assembled(documents)
    data = of(documents, "stream_datum")
    assert len({doc["stream_resource"] for doc in data}) == len(data) == 6
    assert [doc["indices"]["start"] for doc in data] == [0] * 3 + [1] * 3


def test_step(RE: Any, camera: AxisCamera, documents: Documents, tmp_path: Path) -> None:
    result = RE(take_pictures(camera, 4, md={"sample": "thaumatin"}))
    (start,), (stop,) = of(documents, "start"), of(documents, "stop")
    assert result.plan_result == start["uid"]
    assert start["sample"] == "thaumatin"
    assert start["plan_args"] == {"camera": "axis", "n": 4}
    assert start["assets"] == str(tmp_path)
    assert (stop["exit_status"], stop["num_events"]) == ("success", {"primary": 4})
    assert [doc["data"]["axis_captured"] for doc in of(documents, "event")] == [1, 2, 3, 4]
    arrays = assembled(documents)
    assert arrays["axis_image"].shape == (4, *SHAPE)
    assert (np.ptp(arrays["axis_image"], axis=(1, 2)) > 5).all()
    assert (np.diff(arrays["axis_frame_number"]) >= 1).all()
    assert (np.abs(arrays["axis_frame_time"] - time.time()) < 60).all()
    assert file_of(documents, "axis_image").is_relative_to(tmp_path)


def test_a_count_that_is_told_late_is_waited_for(
    camera: AxisCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera.stage()
    try:
        asked = threading.Event()
        ask = camera._read_now

        def ahead(signal: Any) -> Any:
            if signal is not camera.captured:
                return ask(signal)
            asked.set()
            return 5

        monkeypatch.setattr(camera, "_read_now", ahead)
        ended = camera.complete()
        assert asked.wait(90)
        for rows in (3, 4, 5):  # the monitors of what was written last
            camera._on_rows(camera.stream, rows)
        ended.wait(10)
        assert camera.get_index() == 5
        camera.raise_if_silent()
    finally:
        camera.unstage()


def test_fly(RE: Any, camera: AxisCamera, documents: Documents) -> None:
    result = RE(watch_camera(camera, 1.0))
    assert result.plan_result == of(documents, "start")[0]["uid"]
    (stop,) = of(documents, "stop")
    arrays = assembled(documents)
    count = len(arrays["axis_frame_number"])
    assert 15 <= count <= 80  # 40/s for 1 s, on a machine that is busy
    assert stop["num_events"] == {"primary": count}
    with ColumnReader(file_of(documents, "axis_image"), layout.IDENTITY) as reader:
        assert reader.count() == count  # nothing is in the file that no document tells of
    numbers = arrays["axis_frame_number"]
    assert (np.diff(numbers) == 1).all()


def test_files_are_apart(RE: Any, camera: AxisCamera, documents: Documents) -> None:
    RE(take_pictures(camera, 1))
    first = file_of(documents, "axis_image")
    documents.clear()
    RE(take_pictures(camera, 1))
    assert file_of(documents, "axis_image") != first


def test_second_trigger_as_after_resume(RE: Any, camera: AxisCamera, documents: Documents) -> None:
    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan() -> Any:
        yield from bps.trigger_and_read([camera])
        yield from bps.trigger(camera, wait=False)  # what the pause cut off
        yield from bps.trigger(camera, group="again")
        yield from bps.wait("again")
        yield from bps.create("primary")
        yield from bps.read(camera)
        yield from bps.save()
        yield from bps.trigger_and_read([camera])

    RE(plan())
    (stop,) = of(documents, "stop")
    assert stop["num_events"] == {"primary": 3}
    images = of(documents, "stream_resource")[0]["uid"]
    ranges = [
        (d["seq_nums"]["start"], d["indices"]["start"], d["indices"]["stop"])
        for d in of(documents, "stream_datum")
        if d["stream_resource"] == images
    ]
    # Rows are told of one by one and without a gap; the last of a seq_num holds.
    assert [start for _, start, _ in ranges] == list(range(len(ranges)))
    assert all(stop - start == 1 for _, start, stop in ranges)
    assert sorted({number for number, _, _ in ranges}) == [1, 2, 3]
    assembled(documents)


def test_pause_and_resume(RE: Any, camera: AxisCamera, documents: Documents) -> None:
    pause_once(RE, is_event(2))
    from bluesky.utils import RunEngineInterrupted

    with pytest.raises(RunEngineInterrupted):
        RE(take_pictures(camera, 4))
    RE.resume()
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {"primary": 4}
    assembled(documents)


def test_silent_source_is_told_and_named(
    RE: Any, camera: AxisCamera, documents: Documents, ioc: IocProcess
) -> None:
    from ophyd import EpicsSignal

    silent = EpicsSignal(f"{ioc.prefix}SIM:Silent", name="silent")
    silent.wait_for_connection(timeout=60)
    silent.put(1, wait=True)
    camera.silence_limit.put(2.5)
    try:
        error = failing(lambda: RE(take_pictures(camera, 2)))
        assert isinstance(error, HardwareError)
        assert "no frame in the file for " in str(error)
        assert "no picture from sim for more than 2 s" in str(error)
        (stop,) = of(documents, "stop")
        assert stop["exit_status"] == "fail"
        assert "no picture from sim" in stop["reason"]
        error = failing(lambda: RE(watch_camera(camera, 3600.0)))
        assert "no frame in the file for " in str(error)
        error = failing(lambda: RE(watch_camera(camera, 0.5)))  # shorter than the limit
        assert "axis: no frame was recorded; the IOC says: " in str(error)
    finally:
        silent.put(0, wait=True)
    RE(take_pictures(camera, 1))


def test_trigger_of_a_camera_that_is_not_staged(camera: AxisCamera) -> None:
    camera.wait_for_connection(timeout=60)
    status = camera.trigger()
    with pytest.raises(HardwareError, match="axis: not staged"):
        status.wait(5)


def test_push_source_without_pictures_and_with(
    RE: Any, documents: Documents, test_data: Path, tmp_path: Path
) -> None:
    picture = (test_data / "loop" / "nylon_bent_frontlit_left.jpg").read_bytes()
    with running_ioc("iocs.axis", "--source", "push", "--listen", "0") as ioc:
        camera = AxisCamera(ioc.prefix, assets=tmp_path, name="axis")
        camera.wait_for_connection(timeout=60)
        camera.silence_limit.put(1.0)
        error = failing(lambda: RE(watch_camera(camera, 1.0)))
        assert "axis: no picture at all" in str(error)
        camera.silence_limit.put(4.0)
        over = threading.Event()

        def push() -> None:
            http = HTTPConnection("127.0.0.1", ioc.ready["listen"], timeout=60)
            while not over.wait(1 / 30):
                http.request("POST", "/", picture, {"Content-Type": "image/jpeg"})
                http.getresponse().read()
            http.close()

        sender = threading.Thread(target=push)
        sender.start()
        documents.clear()
        try:
            RE(watch_camera(camera, 1.5))
        finally:
            over.set()
            sender.join()
    images = assembled(documents)["axis_image"]
    assert images.shape[1:] == (480, 704)
    assert len(images) >= 15
    assert (images == images[0]).all()


SESSION = """
import sys
from pathlib import Path
from bluesky import RunEngine
import ophyd
from devices.loop.axis import AxisCamera
from plans.pictures import take_pictures, watch_camera
ophyd.set_cl("caproto")
camera = AxisCamera(sys.argv[1], assets=Path(sys.argv[2]) / ("long" * 30), name="axis")
camera.wait_for_connection(timeout=60)
RE = RunEngine(call_returns_result=True)
documents = []
RE.subscribe(lambda *pair: documents.append(pair))
RE(take_pictures(camera, 2))
RE(watch_camera(camera, 0.5))
assert ophyd.get_cl().name == "caproto"
for name, doc in documents:
    if name == "stop":
        print(doc["exit_status"], doc["num_events"]["primary"])
"""


def test_other_control_layer(ioc: IocProcess, tmp_path: Path) -> None:
    ended = forked.run(
        [sys.executable, "-c", SESSION, ioc.prefix, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ, "OPHYD_CONTROL_LAYER": "caproto"},
    )
    assert ended.returncode == 0, ended.stderr
    step, fly = (line.split() for line in ended.stdout.splitlines())
    assert step == ["success", "2"]
    assert fly[0] == "success"
    assert int(fly[1]) >= 1


def test_directory_that_cannot_be_made(RE: Any, ioc: IocProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    camera = AxisCamera(ioc.prefix, assets=tmp_path / "file", name="axis")
    check_bad_directory(RE, camera, "HDF1", lambda camera: take_pictures(camera, 1))


def test_ioc_that_is_not_there(RE: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devices.guarded.CONNECT_S", 0.5)
    camera = AxisCamera("NOBODY:", assets=tmp_path, name="axis")
    check_absent(RE, camera, lambda camera: take_pictures(camera, 1))


@pytest.mark.soak  # make test has `test_axis_kill`
def test_ioc_killed_in_flight_and_back(RE: Any, documents: Documents, tmp_path: Path) -> None:
    rows = check_kill(
        RE,
        documents,
        ("iocs.axis", *ARGUMENTS),
        lambda prefix, assets: AxisCamera(prefix, assets=assets, name="axis"),
        tmp_path,
        fly=lambda camera: watch_camera(camera, 3600.0),
        again=lambda camera: take_pictures(camera, 2),
        key="axis_image",
        identity=layout.IDENTITY,
    )
    assert rows == 2

"""The camera's IOC, as a process, seen by Channel Access clients."""

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import epics
import h5py
import numpy as np
import pytest
from ioc_process import IocProcess, running_ioc
from ophyd import Component as Cpt
from ophyd import HDF5Plugin, ImagePlugin, SimDetector, SingleTrigger
from ophyd.areadetector.filestore_mixins import (
    FileStoreHDF5IterativeWrite,
    FileStoreHDF5SingleIterativeWrite,
)
from support import forked
from support.channels import channels, put, text
from support.waiting import until

from skywright.files import areadetector
from skywright.files.columns import ColumnReader
from skywright.instruments.loop import layouts as layout
from skywright.instruments.loop.picture import read_picture

INVALID = 3


@pytest.fixture(scope="module")
def ioc() -> Iterator[IocProcess]:
    with running_ioc("iocs.axis", "--seed", "2", "--fps", "60", "--size", "352x240") as process:
        yield process


@pytest.fixture
def pv(ioc: IocProcess) -> Callable[[str], epics.PV]:
    return channels(ioc)


def test_list_of_pvs() -> None:
    listed = forked.run(
        [sys.executable, "-m", "iocs.axis", "--prefix", "X:", "--list-pvs"],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    names = listed.stdout.split()
    assert names == sorted(names)
    assert {"X:cam1:Acquire", "X:cam1:Acquire_RBV", "X:image1:ArrayData"} <= set(names)
    reference = Path(__file__).parents[2] / "docs" / "reference" / "axis.md"
    documented = re.findall(r"`((?:cam1|image1|HDF1|SIM):\w+)`", reference.read_text())
    assert len(documented) > 40
    assert {f"X:{name}" for name in documented} <= set(names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--source", "replay"],
        ["--source", "replay", "--path", "/nowhere"],
        ["--size", "wide"],
        ["--source", "telepathy"],
        ["--speed", "0"],
    ],
)
def test_bad_arguments_end_with_status_2(arguments: list[str]) -> None:
    ended = forked.run(
        [sys.executable, "-m", "iocs.axis", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 2
    assert arguments[-1] in ended.stderr
    assert "Traceback" not in ended.stderr


def test_port_in_use_is_said(ioc: IocProcess) -> None:
    ended = forked.run(
        [sys.executable, "-m", "iocs.axis", "--prefix", "Y:", "--port", str(ioc.port)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 2
    assert f"--port {ioc.port}: in use" in ended.stderr
    assert ended.stdout == ""


def make_detector(ioc: IocProcess, mixin: type, directory: Path) -> Any:
    class Recording(HDF5Plugin, mixin):  # type: ignore[misc]
        pass

    class Detector(SingleTrigger, SimDetector):
        image = Cpt(ImagePlugin, "image1:")
        hdf = Cpt(Recording, "HDF1:", write_path_template=str(directory))

    detector = Detector(ioc.prefix, name="det", read_attrs=["hdf"])
    detector.wait_for_connection(timeout=60)
    # The stock trigger fails when the pictures are there before it returns.
    detector.cam.stage_sigs["acquire_period"] = 0.2
    return detector


def test_stock_ophyd_classes_stream(ioc: IocProcess, RE: Any, tmp_path: Path) -> None:
    import bluesky.plans as bp

    detector = make_detector(ioc, FileStoreHDF5IterativeWrite, tmp_path)
    detector.cam.stage_sigs["num_images"] = 3
    documents: list[tuple[str, dict]] = []
    RE(bp.count([detector], 2), lambda *pair: documents.append(pair))
    stop = documents[-1][1]
    assert (stop["exit_status"], stop["num_events"]) == ("success", {"primary": 2})
    resource = next(doc for name, doc in documents if name == "resource")
    assert resource["resource_kwargs"] == {"frame_per_point": 3}
    key = next(doc for name, doc in documents if name == "descriptor")["data_keys"]["det_image"]
    assert (tuple(key["shape"]), key["dtype_numpy"]) == ((3, 240, 352), "|u1")
    with h5py.File(Path(resource["root"]) / resource["resource_path"]) as file:
        assert file["/entry/data/data"].shape == (6, 240, 352)
        assert np.ptp(file["/entry/data/data"][5]) > 10
        numbers = file[layout.IDENTITY][:]
    assert (np.diff(numbers) > 0).all()
    until(lambda: len(detector.image.array_data.get()) == 240 * 352)
    assert detector.image.array_size.get()[1:] == (240, 352)


def test_stock_ophyd_classes_single_files(ioc: IocProcess, RE: Any, tmp_path: Path) -> None:
    import bluesky.plans as bp

    detector = make_detector(ioc, FileStoreHDF5SingleIterativeWrite, tmp_path)
    detector.cam.stage_sigs["num_images"] = 2
    RE(bp.count([detector], 2))
    files = sorted(tmp_path.glob("*.h5"))
    assert [file.name[-10:] for file in files] == [f"_{n:06d}.h5" for n in range(4)]
    for path in files:
        with h5py.File(path) as file:
            assert file["/entry/data/data"].shape == (1, 240, 352)
    detector.hdf.auto_save.set(0).wait(90)
    detector.hdf.file_write_mode.set(2).wait(90)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("cam1:NumImages", -1, 2),
        ("cam1:ImageMode", 7, 1),
        ("cam1:ColorMode", 1, 0),
        ("cam1:DataType", 0, 1),
        ("cam1:AcquirePeriod", -1.0, 1 / 60),
        ("cam1:BinX", 2, 1),
        ("cam1:SizeX", 100, 352),
        ("HDF1:FilePath", "data/", "/absent/"),
        ("HDF1:FileTemplate", "%d%d", "%s%s_%6.6d.h5"),
        ("HDF1:NDArrayPort", "CAM2", "CAM1"),
        ("HDF1:FileWriteMode", 1, 2),
        ("SIM:Lose", 1.5, 0.0),
    ],
)
def test_bad_value_completes_with_an_alarm_and_a_reason(
    pv: Callable[[str], epics.PV], name: str, bad: Any, good: Any
) -> None:
    target = pv(name)
    put(target, good)
    before = text(target)
    put(target, bad)
    target.get_with_metadata()
    until(lambda: target.get_with_metadata()["severity"] == INVALID)
    assert text(target) == before
    message = text(pv("cam1:StatusMessage_RBV"))
    assert target.pvname in message
    assert "expected" in message or "only" in message or "cannot" in message
    put(target, good)
    assert target.get_with_metadata()["severity"] == 0


def test_acquire_is_a_busy_record(pv: Callable[[str], epics.PV]) -> None:
    put(pv("cam1:ImageMode"), 1)
    put(pv("cam1:NumImages"), 5)
    before = 100
    put(pv("cam1:ArrayCounter"), before)
    put(pv("cam1:Acquire"), 1)  # completes after the fifth
    assert pv("cam1:ArrayCounter_RBV").get() == before + 5
    assert pv("cam1:Acquire").get() == pv("cam1:Acquire_RBV").get() == 0
    put(pv("cam1:ImageMode"), 2)
    pv("cam1:Acquire").put(1)
    until(lambda: pv("cam1:ArrayCounter_RBV").get() > before + 10)
    assert text(pv("cam1:DetectorState_RBV")) == "Acquire"
    assert pv("cam1:Acquire").get() == 1
    put(pv("cam1:Acquire"), 0)
    counted = pv("cam1:ArrayCounter_RBV").get()
    assert pv("cam1:Acquire_RBV").get() == 0
    threading.Event().wait(0.1)
    assert pv("cam1:ArrayCounter_RBV").get() == counted


def test_capture_into_an_absent_directory(pv: Callable[[str], epics.PV], tmp_path: Path) -> None:
    put(pv("HDF1:CreateDirectory"), 0)
    put(pv("HDF1:FilePath"), str(tmp_path / "absent"))
    assert pv("HDF1:FilePathExists_RBV").get() == 0
    put(pv("HDF1:Capture"), 1)
    assert pv("HDF1:Capture_RBV").get() == 0
    assert pv("HDF1:WriteStatus").get() == 1
    assert f"{tmp_path}/absent" in text(pv("HDF1:WriteMessage"))
    put(pv("HDF1:CreateDirectory"), -2)
    assert pv("HDF1:FilePathExists_RBV").get() == 1
    put(pv("HDF1:Capture"), 1)
    assert pv("HDF1:Capture_RBV").get() == 1, text(pv("HDF1:WriteMessage"))
    assert pv("HDF1:WriteStatus").get() == 0
    put(pv("HDF1:Capture"), 0)


def test_a_template_without_a_path_names_a_file_below_file_path(
    pv: Callable[[str], epics.PV], tmp_path: Path
) -> None:
    put(pv("HDF1:FilePath"), str(tmp_path))
    put(pv("HDF1:FileTemplate"), "alone.h5")
    put(pv("HDF1:Capture"), 1)
    put(pv("HDF1:FileTemplate"), "%s%s_%6.6d.h5")
    assert Path(text(pv("HDF1:FullFileName_RBV"))) == tmp_path / "alone.h5"
    put(pv("HDF1:Capture"), 0)
    assert (tmp_path / "alone.h5").exists()


def test_long_paths(pv: Callable[[str], epics.PV], tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120) / ("e" * 120)
    put(pv("HDF1:CreateDirectory"), -5)
    put(pv("HDF1:FilePath"), str(directory))
    put(pv("HDF1:FileName"), "n" * 60)
    assert text(pv("HDF1:FilePath_RBV")) == f"{directory}/"
    put(pv("HDF1:Capture"), 1)
    assert Path(text(pv("HDF1:FullFileName_RBV"))).exists()
    put(pv("HDF1:Capture"), 0)


def test_truth_of_the_simulation(pv: Callable[[str], epics.PV]) -> None:
    put(pv("cam1:ImageMode"), 0)
    put(pv("cam1:Acquire"), 1)
    assert pv("SIM:FrameNumber_RBV").get() == pv("cam1:UniqueId_RBV").get()
    assert '"kind":' in text(pv("SIM:Truth_RBV"))


def test_told_to_end_in_a_recording_it_closes_the_file(tmp_path: Path) -> None:
    with running_ioc("iocs.axis", "--fps", "60", "--size", "352x240") as ioc:
        pv = channels(ioc)
        put(pv("HDF1:FilePath"), str(tmp_path))
        put(pv("HDF1:Capture"), 1)
        path = Path(text(pv("HDF1:FullFileName_RBV")))
        pv("cam1:Acquire").put(1)
        until(lambda: pv("HDF1:NumCaptured_RBV").get() > 5)
        counted = pv("HDF1:NumCaptured_RBV").get()
        assert ioc.terminate() == 0
    with h5py.File(path) as file:  # without SWMR: closed in order
        assert len(file[layout.IDENTITY]) >= counted
        assert len(file[layout.IDENTITY]) == len(file[areadetector.IMAGE])


def test_ends_with_its_parent() -> None:
    with running_ioc("iocs.axis", "--size", "352x240") as ioc:
        assert ioc.process.stdin is not None
        ioc.process.stdin.close()
        assert ioc.process.wait(90) == 0


def test_killed_in_a_recording_what_was_counted_is_readable(tmp_path: Path) -> None:
    arguments = ("--fps", "60", "--size", "352x240")
    with running_ioc("iocs.axis", *arguments) as ioc:
        pv = channels(ioc)
        put(pv("HDF1:FilePath"), str(tmp_path))
        put(pv("HDF1:Capture"), 1)
        path = Path(text(pv("HDF1:FullFileName_RBV")))
        pv("cam1:Acquire").put(1)
        until(lambda: pv("HDF1:NumCaptured_RBV").get() > 5)
        counted = pv("HDF1:NumCaptured_RBV").get()
        assert ioc.kill() == -signal.SIGKILL
    with ColumnReader(path, layout.IDENTITY) as reader:
        assert reader.count() >= counted
        pictures = reader.read(areadetector.IMAGE)
        assert (np.ptp(pictures, axis=(1, 2)) > 10).all()  # no picture of zeros
        assert (np.diff(reader.read(layout.IDENTITY)) == 1).all()


def test_pictures_pushed_over_http(test_data: Path, tmp_path: Path) -> None:
    files = sorted((test_data / "loop").glob("*.jpg"))
    with running_ioc("iocs.axis", "--source", "push", "--listen", "0") as ioc:
        http = HTTPConnection("127.0.0.1", ioc.ready["listen"], timeout=60)

        def push(data: bytes) -> None:
            http.request("POST", "/", data, {"Content-Type": "image/jpeg"})
            assert http.getresponse().read() == b""

        pv = channels(ioc)
        assert pv("cam1:ArraySizeX_RBV").get() == 0
        for file in files:
            push(file.read_bytes())
        shapes = [read_picture(file).shape for file in files]
        height, width = (max(sizes) for sizes in zip(*shapes, strict=True))
        until(lambda: pv("cam1:ArraySizeX_RBV").get() == width)
        assert pv("cam1:ArraySizeY_RBV").get() == height
        # A client that saves and restores settings puts what it has read.
        assert (pv("cam1:SizeX").get(), pv("cam1:SizeY").get()) == (width, height)
        put(pv("HDF1:FilePath"), str(tmp_path))
        put(pv("HDF1:Capture"), 1)
        pv("cam1:Acquire").put(1)
        until(lambda: pv("cam1:Acquire_RBV").get() == 1)
        for file in files:
            push(file.read_bytes())
        put(pv("cam1:Acquire"), 0)
        put(pv("HDF1:Capture"), 0)
        assert pv("HDF1:NumCaptured_RBV").get() == len(files)
        assert pv("HDF1:DroppedArrays_RBV").get() == 0
        path = Path(text(pv("HDF1:FullFileName_RBV")))
        http.close()
    assert path.with_suffix(".mjpeg").read_bytes() == b"".join(f.read_bytes() for f in files)
    with ColumnReader(path, layout.IDENTITY) as reader:
        pictures = reader.read(areadetector.IMAGE)
        sizes = zip(reader.read(areadetector.HEIGHT), reader.read(areadetector.WIDTH), strict=True)
    for file, picture, (height, width) in zip(files, pictures, sizes, strict=True):
        np.testing.assert_array_equal(picture[:height, :width], read_picture(file))


def test_replay_of_real_pictures(test_data: Path) -> None:
    args = ("--source", "replay", "--path", str(test_data / "loop"), "--fps", "100")
    with running_ioc("iocs.axis", *args) as ioc:
        pv = channels(ioc)
        put(pv("cam1:ImageMode"), 1)
        put(pv("cam1:NumImages"), 11)
        put(pv("cam1:Acquire"), 1)
        assert pv("cam1:ArrayCounter_RBV").get() == 11
        assert pv("cam1:LostUndecodable_RBV").get() == 0

"""The spectrometer's IOC, as a process, seen by Channel Access clients and old clients at once."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import epics
import h5py
import numpy as np
import pytest
from ioc_process import IocProcess, running_ioc
from ophyd import Component as Cpt
from ophyd import HDF5Plugin, SimDetector, SingleTrigger
from ophyd.areadetector.filestore_mixins import FileStoreHDF5IterativeWrite
from support import forked
from support.channels import channels, put, text, watch
from support.waiting import until

from skywright.files import areadetector
from skywright.files.columns import ColumnReader
from skywright.instruments.psss import Client, layouts
from skywright.instruments.psss.processing import FitStatus
from skywright.instruments.psss.twin.settings import InstrumentSettings

SIZE = (96, 320)  # rows, columns
AXIS = InstrumentSettings(rows=SIZE[0], columns=SIZE[1]).axis_ev
MAJOR, INVALID = 2, 3


@pytest.fixture(scope="module")
def ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IocProcess]:
    directory = str(tmp_path_factory.mktemp("backgrounds"))
    with running_ioc(
        *("iocs.psss", "--source", "sim", "--size", f"{SIZE[1]}x{SIZE[0]}", "--seed", "2"),
        *("--background-dir", directory),
    ) as process:
        yield process


@pytest.fixture
def pv(ioc: IocProcess) -> Callable[[str], epics.PV]:
    return channels(ioc)


@pytest.fixture
def client(ioc: IocProcess) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{ioc.ready['rest_port']}") as client:
        yield client
        client.stop()
        client.set_background()
        client.set_parameters({"roi": [0, 0], "axis": AXIS.tolist()})


def severity(pv: epics.PV) -> int:
    return int(pv.get_with_metadata(form="time")["severity"])


def test_list_of_pvs() -> None:
    listed = forked.run(
        [sys.executable, "-m", "iocs.psss", "--prefix", "X:", "--list-pvs"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names = {name.removeprefix("X:") for name in listed.stdout.split()}
    assert {f"SPECTRUM_{suffix}" for suffix in ("X", "Y", "CENTER", "FWHM", "COM", "STD")} <= names
    assert {"SPC_ROI_YMIN", "SPC_ROI_YMAX", "FIT_STATUS", "PULSE_ID", "STATE"} <= names
    assert {"cam1:Acquire", "HDF1:Capture", "SPEC1:Capture", "SPEC1:NumCaptured_RBV"} <= names
    reference = Path(__file__).parents[2] / "docs" / "reference" / "psss_service.md"
    pvs = reference.read_text().partition("## PVs")[2].partition("## REST")[0]
    documented = re.findall(r"`((?:\w+:)?[A-Z]\w+)`", pvs)
    wrong = {name for name in documented if name not in names | {"Acquire", "INVALID"}}
    assert len(documented) > 50
    assert not wrong


def test_results_follow_the_pulses(pv: Callable[[str], epics.PV], client: Client) -> None:
    until(lambda: text(pv("STATE")) == "stopped")  # the end of another test is posted later
    put(pv("PROCESSING"), 1)
    assert client.get_status() == "processing"
    until(lambda: text(pv("FIT_STATUS")) == "OK")
    assert len(pv("SPECTRUM_Y").get()) == len(pv("SPECTRUM_X").get()) == SIZE[1]
    assert 8980 < pv("SPECTRUM_CENTER").get() < 9020
    for name in ("FWHM", "COM", "STD", "CENTER_ERR", "FWHM_ERR", "RES", "BRT", "QUALITY"):
        assert pv(f"SPECTRUM_{name}").get() > 0
    until(lambda: severity(pv("SPECTRUM_CENTER")) == 0)
    assert text(pv("FIT_UNIT")) == "EV"
    until(lambda: text(pv("HDF1:DataType_RBV")) == text(pv("cam1:DataType_RBV")) == "UInt16")
    assert text(pv("SPEC1:DataType_RBV")) == "Float64"
    arrived: list[float] = []

    def seen(value: float, timestamp: float, **_: Any) -> None:
        arrived.append(time.time() - timestamp)

    until(lambda: pv("AVG_PULSES").get() > 5)
    put(pv("AVG_N"), 5)
    until(lambda: pv("BLOCK_PULSE_ID").get() > 0)
    assert len(pv("BLOCK_SPECTRUM_Y").get()) == SIZE[1]
    until(lambda: pv("AVG_PULSES").get() == 5)
    assert pv("AVG_CENTER").get() == pytest.approx(9000, abs=10)
    assert pv("AVG_FWHM").get() > 1
    assert len(pv("AVG_SPECTRUM_Y").get()) == SIZE[1]
    watch(pv("PULSE_ID").pvname, seen, form="time")
    # The simulator dates pulses when they are due; on a busy machine they may be late for a while.
    until(lambda: len(arrived) > 5 and min(arrived[1:]) < 0.1)
    before = pv("N_PULSES").get()
    until(lambda: pv("N_PULSES").get() > before)
    assert pv("SIM:Center_RBV").get() == pytest.approx(9000, abs=10)
    put(pv("PROCESSING"), 0)
    assert client.get_status() == "stopped"
    until(lambda: text(pv("STATE")) == "stopped")


def test_roi_one_edge_after_the_other(pv: Callable[[str], epics.PV], client: Client) -> None:
    ymin, ymax = pv("SPC_ROI_YMIN"), pv("SPC_ROI_YMAX")
    put(ymax, 20)
    put(ymin, 10)
    assert client.get_roi() == (10, 20)
    until(lambda: (pv("SPC_ROI_YMIN_RBV").get(), pv("SPC_ROI_YMAX_RBV").get()) == (10, 20))
    put(ymin, 40)  # upside down until the other edge follows
    assert client.get_roi() == (10, 20)
    until(lambda: severity(ymin) == MAJOR)
    until(lambda: "roi" in text(pv("MESSAGE")))
    assert ymin.get() == 40
    assert pv("SPC_ROI_YMIN_RBV").get() == 10
    put(ymax, 60)
    assert client.get_roi() == (40, 60)
    until(lambda: severity(ymin) == severity(ymax) == 0)
    until(lambda: "roi" not in text(pv("MESSAGE")))
    client.set_parameters({"roi": [0, SIZE[0]]})
    until(lambda: (ymin.get(), ymax.get()) == (0, SIZE[0]))
    put(pv("PROCESSING"), 1)
    until(lambda: pv("SETTINGS_USED").get() == pv("SETTINGS_NUMBER").get())
    until(lambda: text(pv("FIT_STATUS")) == "OK")


def test_axis_by_pv(pv: Callable[[str], epics.PV], client: Client) -> None:
    axis = pv("SPECTRUM_X")
    np.testing.assert_allclose(axis.get(), AXIS)
    put(pv("PROCESSING"), 1)
    put(axis, AXIS + 1000.0)
    until(lambda: 9980 < pv("SPECTRUM_CENTER").get() < 10020)
    put(axis, [0.0])  # no axis: pixels, and a status that says so
    until(lambda: text(pv("FIT_STATUS")) == "NO_AXIS")
    assert text(pv("FIT_UNIT")) == "PIXEL"
    until(lambda: np.array_equal(axis.get(), np.arange(SIZE[1])))
    put(axis, AXIS[::-1])
    until(lambda: text(pv("FIT_UNIT")) == "EV")
    put(axis, np.zeros(SIZE[1]))  # not rising: refused
    until(lambda: severity(axis) == INVALID)
    put(axis, AXIS)
    until(lambda: severity(axis) == 0)


def test_what_is_set_while_stopped_is_shown(pv: Callable[[str], epics.PV], client: Client) -> None:
    put(pv("PROCESSING"), 0)
    client.set_parameters({"axis": (AXIS + 5.0).tolist(), "saturation": 4095})
    until(lambda: np.allclose(pv("SPECTRUM_X").get(), AXIS + 5.0))
    assert severity(pv("SPECTRUM_X")) == 0
    until(lambda: pv("SATURATION_RBV").get() == pv("SATURATION").get() == 4095)
    put(pv("SATURATION"), 0)
    client.set_parameters({"axis": None})
    until(lambda: np.array_equal(pv("SPECTRUM_X").get(), np.arange(SIZE[1])))
    put(pv("SPECTRUM_X"), AXIS)
    assert client.set_parameters({})["saturation"] is None


def test_background_by_pv(pv: Callable[[str], epics.PV], client: Client) -> None:
    put(pv("PROCESSING"), 1)
    put(pv("SIM:Beam"), 0)
    put(pv("BACKGROUND_RECORD"), 5)  # completes when it is in use
    put(pv("SIM:Beam"), 1)
    name = client.get_parameters()["background"]
    assert name.startswith("recorded 20")
    until(lambda: text(pv("BACKGROUND_RBV")) == name)
    until(lambda: text(pv("BACKGROUND_APPLIED")) == "Yes")
    for nothing in (" ", ""):  # both clear it
        put(pv("BACKGROUND"), nothing)
        assert client.get_parameters()["background"] == ""
        put(pv("BACKGROUND"), name)
        assert client.get_parameters()["background"] == name
    put(pv("BACKGROUND"), "never seen")
    until(lambda: severity(pv("BACKGROUND")) == INVALID)
    assert client.get_parameters()["background"] == name
    put(pv("BACKGROUND_MODE"), "signed")
    until(lambda: pv("BACKGROUND_MODE_RBV").get(as_string=True) == "signed")
    client.set_parameters({"background_mode": "clipped"})
    until(lambda: pv("BACKGROUND_MODE").get(as_string=True) == "clipped")


def test_text_that_channel_access_cannot_carry_ends_nothing(
    ioc: IocProcess, client: Client
) -> None:
    watching = watch(f"{ioc.prefix}BACKGROUND_RBV")
    client.set_background("\u0442\u0435\u043c\u043d\u043e\u0439", np.zeros(SIZE, np.uint16))
    until(lambda: text(watching) == "??????")
    assert client.get_parameters()["background"] == "\u0442\u0435\u043c\u043d\u043e\u0439"


def test_every_spectrum_and_one_picture_in_so_many(
    pv: Callable[[str], epics.PV], client: Client, tmp_path: Path
) -> None:
    for plugin in ("HDF1", "SPEC1"):
        put(pv(f"{plugin}:FilePath"), str(tmp_path))
        put(pv(f"{plugin}:FileName"), plugin)
        put(pv(f"{plugin}:Capture"), 1)
    put(pv("RAW_EVERY"), 10)
    put(pv("cam1:ImageMode"), 1)
    put(pv("cam1:NumImages"), 25)
    put(pv("cam1:Acquire"), 1)  # completes when all is in the files
    assert pv("SPEC1:NumCaptured_RBV").get() == 25
    assert pv("HDF1:NumCaptured_RBV").get() == 3
    assert client.get_status() == "stopped"
    path = Path(text(pv("SPEC1:FullFileName_RBV")))
    with ColumnReader(path, layouts.PULSE_ID) as reader:
        assert reader.count() == 25
        pulse_ids = reader.read(layouts.PULSE_ID)
        assert (np.diff(pulse_ids) == 1).all()
        assert all(FitStatus(code).has_values for code in reader.read(layouts.STATUS))
    for plugin in ("HDF1", "SPEC1"):
        put(pv(f"{plugin}:Capture"), 0)
    with h5py.File(text(pv("HDF1:FullFileName_RBV"))) as file:
        assert file[areadetector.UNIQUE_ID][:].tolist() == pulse_ids[::10].tolist()
        assert file[areadetector.IMAGE].shape == (3, *SIZE)
    put(pv("HDF1:FilePath"), str(tmp_path / "absent"))
    put(pv("HDF1:Capture"), 1)
    assert "absent" in text(pv("HDF1:WriteMessage"))
    assert pv("HDF1:Capture_RBV").get() == 0


def test_stock_ophyd_classes(
    ioc: IocProcess, RE: Any, client: Client, pv: Callable[[str], epics.PV], tmp_path: Path
) -> None:
    import bluesky.plans as bp

    class Recording(HDF5Plugin, FileStoreHDF5IterativeWrite):
        pass

    class Detector(SingleTrigger, SimDetector):
        hdf = Cpt(Recording, "HDF1:", write_path_template=str(tmp_path))

    detector = Detector(ioc.prefix, name="det", read_attrs=["hdf"])
    detector.wait_for_connection(timeout=60)
    put(pv("RAW_EVERY"), 1)
    put(pv("PROCESSING"), 1)
    until(lambda: detector.hdf.array_size.width.get() == SIZE[1])
    detector.cam.stage_sigs["num_images"] = 30  # the stock trigger fails when it is too fast
    documents: list[tuple[str, Any]] = []
    RE(bp.count([detector], 2), lambda *pair: documents.append(pair))
    stop = documents[-1][1]
    assert (stop["exit_status"], stop["num_events"]) == ("success", {"primary": 2})
    resource = next(doc for name, doc in documents if name == "resource")
    with h5py.File(Path(resource["root"]) / resource["resource_path"]) as file:
        assert file[areadetector.IMAGE].shape == (60, *SIZE)
        assert (np.diff(file[areadetector.UNIQUE_ID][:]) > 0).all()


def test_bad_values_complete_with_an_alarm_and_a_reason(
    pv: Callable[[str], epics.PV], client: Client
) -> None:
    for name, bad in (
        ("RAW_EVERY", 0),
        ("SATURATION", -1.0),
        ("HDF1:FileWriteMode", 0),
        ("HDF1:LazyOpen", 0),
    ):
        target = pv(name)
        put(target, bad)
        until(lambda: severity(target) == INVALID)  # noqa: B023
        assert target.pvname in text(pv("MESSAGE"))
    put(pv("RAW_EVERY"), 10)


def test_period_of_the_pulses_is_shown_and_cannot_be_put(pv: Callable[[str], epics.PV]) -> None:
    target, readback = pv("cam1:AcquirePeriod"), pv("cam1:AcquirePeriod_RBV")
    assert target.get() == readback.get() == 0.01
    put(target, 0.02)
    until(lambda: severity(target) == INVALID)
    assert target.get() == readback.get() == 0.01


def test_counts_and_messages(pv: Callable[[str], epics.PV], client: Client) -> None:
    put(pv("PROCESSING"), 1)
    until(lambda: pv("N_PROCESSED").get() > 3)
    assert pv("N_SENT").get() == 0  # nobody reads
    until(lambda: pv("N_UNSENT").get() > 0)
    assert isinstance(json.loads(text(pv("LOST_CAUSES"))), dict)
    until(lambda: text(pv("MESSAGE")) == "processing")  # after any message of a refused put
    assert client.get_statistics()["n_processed_images"] > 3


def test_counters_count_on_from_where_they_are_put(
    pv: Callable[[str], epics.PV], client: Client
) -> None:
    """Stock detectors put them back when they are unstaged, and wait until they are there."""
    put(pv("PROCESSING"), 1)
    for part in ("cam1", "HDF1", "SPEC1"):
        put(pv(f"{part}:ArrayCounter"), 7)
    before = pv("N_PULSES").get()
    until(lambda: pv("N_PULSES").get() > before + 5)
    for part in ("cam1", "HDF1", "SPEC1"):
        assert pv(f"{part}:ArrayCounter_RBV").get() == 7
    put(pv("cam1:ImageMode"), 1)
    put(pv("cam1:NumImages"), 4)
    put(pv("cam1:Acquire"), 1)
    for part in ("cam1", "HDF1", "SPEC1"):
        assert pv(f"{part}:ArrayCounter_RBV").get() == 11

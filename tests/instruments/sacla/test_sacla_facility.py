"""The double of SACLA's online data: its modules have the facility's names, calls and habits."""

import importlib
import math
import socket
import subprocess
import sys

import numpy as np
import pytest
from facility_double import SMALL, A, B, Twin, tag

from skywright.cli import main
from skywright.errors import ConfigError
from skywright.instruments.sacla.facility import path
from skywright.instruments.sacla.facility.link import APIError, Link
from skywright.instruments.sacla.facility.server import FacilityServer
from skywright.instruments.sacla.facility.settings import EQUIPMENT_IDS, FacilitySettings
from skywright.instruments.sacla.facility.wire import Channel
from skywright.instruments.sacla.twin.beamline import GAIN, HIGHTAG, RUN

BL = 3
IDS = {role: name.format(bl=BL) for role, name in EQUIPMENT_IDS.items()}
CHOSEN = SMALL | {"detectors": (A, B), "cameras": ("OPAL-234363",), "shots": 150}


@pytest.fixture(name="facility")
def with_shots(facility):
    facility.reset(**CHOSEN)
    facility.advance(20)
    return facility


@pytest.fixture(name="dbpy")
def import_dbpy(facility):
    return importlib.import_module("dbpy")


@pytest.fixture(name="olpy")
def import_olpy(facility):
    return importlib.import_module("olpy")


def test_runs_and_tags(facility, dbpy):
    assert dbpy.read_runnumber_newest(BL) == RUN
    assert dbpy.read_runstatus(BL, RUN) == 2
    assert dbpy.read_hightagnumber(BL, RUN) == HIGHTAG
    assert dbpy.read_start_tagnumber(BL, RUN) == (HIGHTAG, tag(0))
    with pytest.raises(dbpy.APIError, match="has not ended"):
        dbpy.read_end_tagnumber(BL, RUN)
    facility.pause_run()
    assert dbpy.read_runstatus(BL, RUN) == 1
    facility.stop_run()
    assert dbpy.read_runstatus(BL, RUN) == 0
    assert dbpy.read_end_tagnumber(BL, RUN) == (HIGHTAG, tag(149))
    tags = tuple(tag(shot) for shot in range(150))
    assert dbpy.read_taglist_byrun(BL, RUN) == tags
    assert dbpy.read_taglist_bydetid(BL, RUN, A) == tags
    assert dbpy.read_taglist(BL, HIGHTAG, tag(3), tag(5)) == tags[3:6]
    assert dbpy.read_tagnumber_newest(IDS["i0"]) == (HIGHTAG, tag(149))
    assert dbpy.read_detidlist(BL, RUN) == (A, B, "OPAL-234363")
    assert set(dbpy.read_equiplist()) == set(IDS.values())
    assert dbpy.read_config_photonenergy_in_keV(BL, RUN) == 10.0
    with pytest.raises(dbpy.APIError, match="beamline 2"):
        dbpy.read_runnumber_newest(2)
    with pytest.raises(dbpy.APIError, match="no run 9"):
        dbpy.read_hightagnumber(BL, 9)


def test_without_a_run_its_status_is_that_there_is_none_yet(facility, dbpy):
    facility.reset(**SMALL | {"running": False})
    assert dbpy.read_runstatus(BL, dbpy.read_runnumber_newest(BL)) == -1


def test_values_are_texts_with_units(dbpy):
    truth = Twin(150, **CHOSEN).records
    tags = (tag(0), tag(7), tag(3))
    for role in ("i0", "delay", "beam", "timing"):
        texts = dbpy.read_syncdatalist(IDS[role], HIGHTAG, tags)
        assert texts == tuple(truth[role][key] for key in tags)
    assert dbpy.read_syncdatalist(IDS["i0"], HIGHTAG, tags)[0].endswith("V")
    assert dbpy.read_syncdatalist(IDS["delay"], HIGHTAG, tags)[0].endswith("pulse")
    numbers = dbpy.read_syncdatalist_float(IDS["delay"], HIGHTAG, tags)
    assert numbers == tuple(float(truth["delay"][key].removesuffix("pulse")) for key in tags)
    assert dbpy.read_syncdatalist(IDS["i0"], HIGHTAG, (tag(10**6),)) == (None,)
    assert math.isnan(dbpy.read_syncdatalist_float(IDS["i0"], HIGHTAG, (tag(10**6),))[0])
    with pytest.raises(TypeError, match="tuple"):
        dbpy.read_syncdatalist(IDS["i0"], HIGHTAG, list(tags))
    with pytest.raises(dbpy.APIError, match="no equipment xfel_other"):
        dbpy.read_syncdatalist("xfel_other", HIGHTAG, tags)


def test_values_that_are_none(facility, dbpy):
    facility.reset(**CHOSEN | {"no_value": 0.5})
    facility.advance(20)
    tags = tuple(tag(shot) for shot in range(150))
    texts = dbpy.read_syncdatalist(IDS["i0"], HIGHTAG, tags)
    assert {"not-converged", "saturated", "", None} <= set(texts)
    facility.inject("database", IDS["i0"], 1)
    with pytest.raises(dbpy.APIError, match="does not answer"):
        dbpy.read_syncdatalist(IDS["i0"], HIGHTAG, tags)
    assert dbpy.read_syncdatalist(IDS["i0"], HIGHTAG, tags) == texts


def test_images_of_the_ring(olpy):
    truth = Twin(150, **CHOSEN).records
    reader = olpy.StorageReader(A)
    buffer = olpy.StorageBuffer(reader)
    with pytest.raises(olpy.APIError):
        buffer.read_det_data(0)
    assert reader.collect(buffer, olpy.NEWESTTAG) == tag(149)
    first = buffer.read_det_data(0)
    assert (first.shape, first.dtype) == ((12, 10), np.float32)
    info = buffer.read_det_info(0)
    assert (info["xsize"], info["ysize"], info["mp_absgain"]) == (10, 12, GAIN)
    assert info["mp_manipulator_shift"] == 0
    before = first.copy()
    assert reader.collect(buffer, tag(50)) == tag(50)  # the oldest of the ring's hundred
    np.testing.assert_array_equal(first, truth[A][tag(50)])  # the array was used again
    assert (first != before).any()
    with pytest.raises(olpy.APIError, match="-10000"):
        reader.collect(buffer, tag(49))
    with pytest.raises(olpy.APIError, match="not there yet"):
        reader.collect(buffer, tag(150))
    with pytest.raises(olpy.APIError, match="no such detector"):
        olpy.StorageReader("MPCCD-0")


def test_a_camera_has_no_calibration(olpy):
    reader = olpy.StorageReader("OPAL-234363")
    buffer = olpy.StorageBuffer(reader)
    reader.collect(buffer, olpy.NEWESTTAG)
    assert not [key for key in buffer.read_det_info(0) if key.startswith("mp_")]


def test_faults_of_a_reader(facility, olpy):
    reader = olpy.StorageReader(A)
    buffer = olpy.StorageBuffer(reader)
    for kind, message in (("socket", "-1010"), ("calibration", "-10300")):
        facility.inject(kind, A, 1)
        with pytest.raises(olpy.APIError, match=message):
            reader.collect(buffer, tag(100))
    facility.inject("wrong_tag", A, 1)
    assert reader.collect(buffer, tag(100)) == tag(50)
    facility.remove_detector(A)
    with pytest.raises(olpy.APIError, match="-10101"):
        reader.collect(buffer, tag(100))
    facility.restore_detector(A)
    assert reader.collect(buffer, tag(100)) == tag(100)


def test_a_fault_of_what_there_is_not_is_refused(facility, olpy):
    for kind, target, why in (
        ("disk", IDS["i0"], "no fault disk; there are wrong_tag"),
        ("database", A, f"no equipment {A}"),
        ("socket", "MPCCD-0", "no such detector: MPCCD-0"),
    ):
        with pytest.raises(olpy.APIError, match=why):
            facility.inject(kind, target)
    for change in (facility.remove_detector, facility.restore_detector, facility.stop_images):
        with pytest.raises(olpy.APIError, match="no such detector: MPCCD-0"):
            change("MPCCD-0")
    assert facility.pending_faults() == 0
    with pytest.raises(olpy.APIError, match="no 'timng'; there are upstream"):
        facility.reset(**SMALL, every={"timng": 2})


def test_ctrl_c_in_a_call_does_not_shift_the_answers_of_the_next_calls(dbpy, monkeypatch):
    receive = Channel.receive

    def interrupted(connection):
        monkeypatch.setattr(Channel, "receive", receive)
        raise KeyboardInterrupt

    monkeypatch.setattr(Channel, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dbpy.read_syncdatalist(IDS["i0"], HIGHTAG, (tag(0),))
    assert dbpy.read_runnumber_newest(BL) == RUN
    assert dbpy.read_detidlist(BL, RUN) == (A, B, "OPAL-234363")


def test_images_of_a_stored_run(facility, olpy):
    stpy = importlib.import_module("stpy")
    truth = Twin(150, **CHOSEN).records
    reader = stpy.StorageReader(B, BL, (RUN,))
    buffer = stpy.StorageBuffer(reader)
    with pytest.raises(stpy.APIError):  # it has not ended
        reader.collect(buffer, tag(0))
    facility.stop_run()
    for shot in (0, 149):
        assert reader.collect(buffer, tag(shot)) == tag(shot)
        np.testing.assert_array_equal(buffer.read_det_data(0), truth[B][tag(shot)])
    with pytest.raises(TypeError, match="tuple"):
        stpy.StorageReader(B, BL, [RUN])


def test_the_modules_are_found_on_the_path_and_need_no_more(server, facility):
    code = "import dbpy, olpy, stpy; print(dbpy.read_runnumber_newest(3), olpy.NEWESTTAG)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(path()), "SACLA_FACILITY_SOCKET": str(server)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [str(RUN), "-1"]


def test_without_a_server_an_error_says_how_it_is_started(tmp_path):
    socket = tmp_path / "bl3"
    with pytest.raises(APIError, match=f"at {socket} .*`skywright sacla facility` starts it"):
        Link(socket).call("read_runnumber_newest", BL)


def test_a_setting_that_does_not_exist_is_one_line_and_status_2(capfd):
    for option, message in (
        ("rate=3", "rate_hz"),
        ("shape=3", "shape"),
        ("shape=[0, 0]", "shape"),
        ('every={"timing": 0}', "every.timing"),
        ("seed=-1", "seed"),
        ("seed", "NAME=VALUE"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["sacla", "facility", "--set", option])
        out, err = capfd.readouterr()
        assert (ended.value.code, out, len(err.splitlines())) == (2, "", 1)
        assert message in err


def test_a_server_leaves_another_ones_socket_alone_and_replaces_a_dead_one(server, tmp_path):
    settings = FacilitySettings(**SMALL)
    with pytest.raises(ConfigError, match="belongs to a server that is running"):
        FacilityServer(settings, server)
    dead = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    server = FacilityServer(settings, dead)
    assert dead.is_socket()
    server.stop()
    server.run()
    assert not dead.exists()
    with pytest.raises(ConfigError, match="cannot be made"):
        FacilityServer(settings, tmp_path / ("long" * 40))


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("of the beamtime")
    with pytest.raises(ConfigError, match="is no socket"):
        FacilityServer(FacilitySettings(**SMALL), notes)
    assert notes.read_text() == "of the beamtime"

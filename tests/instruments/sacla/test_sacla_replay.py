"""`skywright sacla replay` against the contract written a second time, and on broken files."""

import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
from collections import deque
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from sacla_file import make_replay
from sacla_plain import ROIS, assert_same, plain_replay
from support import forked

from skywright.cli import main
from skywright.errors import ConfigError, DataError, HardwareError
from skywright.files import columns
from skywright.instruments.sacla import live, replay_writer
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.regions import polygon_mask, read_mask
from skywright.instruments.sacla.replay_file import ReplayFile
from skywright.instruments.sacla.replay_writer import ReplayWriter, record_replay
from skywright.instruments.sacla.sources.sim import SimSource
from skywright.instruments.sacla.tile import Tile
from skywright.instruments.sacla.twin import Beamline, Faults, TwinSettings
from skywright.processes.lifecycle import END_SIGNALS


@pytest.fixture(name="run")
def make_run(capfd):
    """Run the command in this process; return exit status, stdout and stderr."""

    def run(path, *more, rois=ROIS, bins="-2:3:6", command="replay"):
        file = [str(path)] if command == "replay" else ["--source", "replay", "--file", str(path)]
        arguments = ["sacla", command, *file]
        for name, detector, points in rois:
            is_text = isinstance(points, str)
            corners = points if is_text else ";".join(f"{x},{y}" for x, y in points)
            arguments += ["--roi", f"{name}:{detector}:{corners}"]
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--bins", bins, "--json", *map(str, more)])
        return int(ended.value.code or 0), *capfd.readouterr()

    return run


@pytest.fixture(name="report")
def make_report(run):
    def report(path, *more, **options):
        code, out, err = run(path, *more, **options)
        assert code == 0, err
        found = json.loads(out)
        return found, found.pop("perf")

    return report


@pytest.mark.parametrize(("seed", "shots", "window"), [(0, 120, 120), (1, 400, 60), (2, 60, 600)])
def test_replay_equals_the_plain_way(tmp_path, report, seed, shots, window):
    path = make_replay(tmp_path / "run.h5", seed, shots)
    expected, images = plain_replay(path, ROIS, np.linspace(-2, 3, 7).tolist(), window)
    found, _ = report(path, "--window", window, "--images", tmp_path / "out.npz")
    assert expected["counts"]["accepted"] > 20
    assert_same(found, expected)
    with np.load(tmp_path / "out.npz") as saved:
        assert set(saved) == set(images)
        for key, image in images.items():
            np.testing.assert_allclose(saved[key], image, rtol=1e-9, atol=1e-3, err_msg=key)


def test_any_number_of_workers_gives_the_same_bits(tmp_path, report):
    path = make_replay(tmp_path / "run.h5", 3, 700, detectors=("MPCCD-A",))
    reports, images = [], []
    for workers in (1, 2, 3):
        out = tmp_path / f"{workers}.npz"
        more = ("--workers", workers, "--images", out)
        found, perf = report(path, *more, rois=[ROIS[0], ROIS[2]])
        assert perf["workers"] == workers
        reports.append(found)
        with np.load(out) as saved:
            images.append({key: saved[key].tobytes() for key in saved})
    assert reports[0]["counts"]["accepted"] > 200
    assert reports[0] == reports[1] == reports[2]
    assert images[0] == images[1] == images[2]


@pytest.mark.parametrize("command", ["replay", "live"])
def test_the_mask_of_a_polygon_gives_what_the_polygon_gives(tmp_path, report, command):
    path = make_replay(tmp_path / "run.h5", 3, 300)
    pixels = {name: polygon_mask(points, (40, 30)) for name, _, points in ROIS}
    np.save(tmp_path / "tri.npy", pixels["tri"])
    with h5py.File(tmp_path / "masks.h5", "w") as file:
        file["entry/bow"] = pixels["bow"].astype(np.uint8)
    masks = [
        ("tri", "MPCCD-A", f"mask={tmp_path / 'tri.npy'}"),
        ("bow", "MPCCD-B", f"mask={tmp_path / 'masks.h5'}:/entry/bow"),
        ROIS[2],
    ]
    expected, _ = report(path)
    speed = ("--speed", 0) if command == "live" else ()
    found, _ = report(path, "--workers", 2, *speed, rois=masks, command=command)
    assert found == expected
    assert found["counts"]["accepted"] > 50


@pytest.mark.parametrize("odd", [(b"'fort", b"'f\n\nort"), (b"(40, 30), ", b"(40, %d), " % 10**15)])
def test_a_mask_with_a_damaged_header_is_named(tmp_path, odd):
    path = tmp_path / "mask.npy"
    np.save(path, np.ones((40, 30), bool))
    path.write_bytes(path.read_bytes().replace(*odd))
    with pytest.raises(ConfigError, match=r"mask\.npy: not readable"):
        read_mask(str(path))


@pytest.mark.parametrize(
    ("values", "source", "names"),
    [
        (None, "mask.npy", "not readable"),
        (None, "mask.h5:mask", "not readable"),
        (np.ones((40, 30), bool), "mask.h5:other", "no dataset other"),
        (np.ones((40, 30), bool), "mask.h5", "expected FILE.npy, or FILE:DATASET"),
        (np.ones((30, 40), bool), "mask.npy", "mask of shape (30, 40), expected (40, 30)"),
        (np.zeros((40, 30), bool), "mask.npy", "no pixel"),
        (np.full((40, 30), 1.0), "mask.npy", "float64"),
        (np.arange(1200).reshape(40, 30), "mask.npy", "values other than 0 and 1"),
        (np.ones((1, 40, 30), bool), "mask.h5:mask", "(1, 40, 30), expected (rows, columns)"),
        (np.ones((40, 30), bool), "mask .npy", "without blanks"),
    ],
)
def test_a_bad_mask_is_one_line_and_status_2(tmp_path, run, monkeypatch, values, source, names):
    path = make_replay(tmp_path / "run.h5", 0, 10)
    monkeypatch.chdir(tmp_path)
    if values is not None:
        np.save("mask.npy", values)
        with h5py.File("mask.h5", "w") as file:
            file["mask"] = values
    code, out, err = run(path, rois=[("m", "MPCCD-A", f"mask={source}")])
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "ROI m: " in err
    assert names in err


def test_no_shot_accepted_is_a_report_of_nulls(tmp_path, report):
    path = make_replay(tmp_path / "run.h5", 4, 20)
    with h5py.File(path, "a") as file:
        file["analysis"].attrs["i0_min"] = 1e9
    found, _ = report(path, "--images", tmp_path / "out.npz")
    expected, _ = plain_replay(path, ROIS, np.linspace(-2, 3, 7).tolist(), 120)
    assert found["counts"]["accepted"] == 0
    assert_same(found, expected)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:5000])


def edited(edit):
    def breaker(path):
        with h5py.File(path, "a") as file:
            edit(file)

    return breaker


def set_attribute(where, key, value):
    return edited(lambda file: file[where].attrs.__setitem__(key, value))


def delete(where):
    return edited(lambda file: file.__delitem__(where))


def delete_gain(detector):
    return edited(lambda file: file[f"detectors/{detector}"].attrs.__delitem__("mp_absgain"))


def shorten_tags(file):
    tags = file["equipment/i0/tag"][()]
    del file["equipment/i0/tag"]
    file["equipment/i0/tag"] = tags[:-1]


@pytest.mark.parametrize(
    ("breaker", "names"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_text("hello"), "HDF5"),
        (lambda path: (path.unlink(), path.mkdir()), "directory"),
        (cut_short, "HDF5"),
        (set_attribute("/", "format", "other"), "format"),
        (set_attribute("/", "version", 2), "version is 2, expected 1"),
        (set_attribute("/", "tag_step", 0), "tag_step"),
        (set_attribute("analysis", "photon_ev", 0.0), "photon_ev"),
        (set_attribute("analysis", "i0_min", "much"), "i0_min"),
        (set_attribute("detectors/MPCCD-A", "xsize", 31), "xsize"),
        (set_attribute("detectors/MPCCD-A", "mp_absgain", -1.0), "mp_absgain"),
        (set_attribute("detectors/MPCCD-A", "mp_absgain", 1e300), "mp_absgain"),
        (delete_gain("MPCCD-A"), "no attribute mp_absgain, electrons per ADU; add"),
        (set_attribute("analysis", "ev_per_electron", 1e-323), "ev_per_electron"),
        (set_attribute("analysis", "radial_dr", -1.0), "radial_dr"),
        (set_attribute("analysis", "radial_dr", 1e-9), "radial_dr = 1e-09"),
        (set_attribute("analysis", "radial_dr", 1e-300), "radial_dr = 1e-300"),
        (set_attribute("analysis", "radial_cx", 1e12), "radial_cx = 1e+12"),
        (delete("detectors"), "detectors"),
        (delete("detectors/MPCCD-B/mask"), "mask"),
        (delete("equipment/delay"), "equipment/delay"),
        (edited(shorten_tags), "equipment/i0"),
    ],
)
def test_a_broken_file_is_one_line_and_status_2(tmp_path, run, breaker, names):
    path = make_replay(tmp_path / "run.h5", 0, 10)
    breaker(path)
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert names in err


@pytest.mark.parametrize("command", ["replay", "live"])
def test_a_region_beside_its_detector_is_reported(tmp_path, run, command, caplog):
    path = make_replay(tmp_path / "run.h5", 0, 20)
    speed = ("--speed", 0) if command == "live" else ()
    off = ("off", "MPCCD-A", [(30, 5), (40, 5), (40, 15)])  # of 30 columns
    code, out, _ = run(path, *speed, rois=[ROIS[0], off], command=command)
    assert (code, json.loads(out)["rois"]["off"]["npixels"]) == (0, 0)
    (message,) = caplog.messages
    assert message.startswith("ROI off: no pixel of MPCCD-A is inside, expected corners x,y in")
    assert message.endswith("its sums are 0")


@pytest.mark.parametrize("command", ["replay", "live"])
def test_a_camera_without_gain_has_gain_1_and_no_threshold(tmp_path, run, command, caplog):
    path = make_replay(tmp_path / "run.h5", 0, 100, detectors=("OPAL-234363",))
    roi, speed = ("a", "OPAL-234363", ROIS[0][2]), ("--speed", 0) if command == "live" else ()
    delete_gain("OPAL-234363")(path)
    code, out, _ = run(path, *speed, rois=[roi], command=command)
    assert code == 0
    said = "OPAL-234363: no attribute mp_absgain: gain 1 and no threshold are used"
    assert [each.endswith(said) for each in caplog.messages] == [True]
    set_attribute("detectors/OPAL-234363", "mp_absgain", 1.0)(path)
    set_attribute("analysis", "threshold_ev", -1e30)(path)
    _, expected, _ = run(path, *speed, rois=[roi], command=command)
    assert len(caplog.messages) == 1
    found, wanted = json.loads(out), json.loads(expected)
    assert found.pop("perf")
    assert wanted.pop("perf")
    assert found == wanted
    assert found["counts"]["accepted"] > 10


@pytest.mark.parametrize(
    ("rois", "bins", "names"),
    [
        ([("a", "MPCCD-C", [(0, 0), (1, 0), (1, 1)])], "0:1:2", "MPCCD-C"),
        ([("a", "MPCCD-A", [(0, 0), (1, 0)])], "0:1:2", "corners"),
        ([ROIS[0], ROIS[0]], "0:1:2", "twice"),
        (ROIS, "1:0:2", "bins"),
        (ROIS, "0:1", "bins"),
        (ROIS, "-1e308:1e308:5", "bins"),
        (ROIS, "0:1e-320:5000", "bins"),
        (ROIS, "0:1:100001", "N <= 100000"),
    ],
)
def test_bad_use_is_one_line_and_status_2(tmp_path, run, rois, bins, names):
    code, out, err = run(make_replay(tmp_path / "run.h5", 0, 10), rois=rois, bins=bins)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert names in err


def test_live_over_the_replay_source_equals_the_replay(tmp_path, report, run):
    path = make_replay(tmp_path / "run.h5", 5, 400)
    stored, _ = report(path, "--images", tmp_path / "stored.npz")
    live = run(
        path, "--workers", 2, "--speed", 0, "--images", tmp_path / "live.npz", command="live"
    )
    code, out, err = live
    assert code == 0, err
    found = json.loads(out)
    found.pop("perf")
    assert found == stored
    with np.load(tmp_path / "stored.npz") as one, np.load(tmp_path / "live.npz") as other:
        assert {key: one[key].tobytes() for key in one} == {
            key: other[key].tobytes() for key in other
        }


@pytest.mark.parametrize(("value", "bins"), [("motor", "0:8:4"), ("i0", "0.6:1.2:5")])
def test_shots_are_binned_by_another_value_stored_and_live(tmp_path, report, run, value, bins):
    path = make_replay(tmp_path / "run.h5", 6, 300)
    with h5py.File(path, "a") as file:
        group = (
            file.copy(file["equipment/delay"], file["equipment"], "motor")
            or file["equipment/motor"]
        )
        count = len(group["tag"])
        del group["raw"]
        texts = [f"{k % 10}pulse" if k % 7 else "not-converged" for k in range(count)]
        group.create_dataset("raw", data=texts, dtype=h5py.string_dtype())
    start, stop, number = bins.split(":")
    edges = np.linspace(float(start), float(stop), int(number) + 1).tolist()
    expected, _ = plain_replay(path, ROIS, edges, 120, value)
    stored, _ = report(path, "--binned-by", value, bins=bins)
    assert sum(stored["rois"]["tri"]["on"]["n"]) > 20
    assert stored["counts"]["out_of_range"] > 0
    assert_same(stored, expected)
    code, out, err = run(path, "--binned-by", value, "--speed", 0, bins=bins, command="live")
    assert code == 0, err
    found = json.loads(out)
    found.pop("perf")
    assert found == stored


@pytest.mark.parametrize("command", ["replay", "live"])
def test_a_value_that_the_source_lacks_is_refused(tmp_path, run, command):
    path = make_replay(tmp_path / "run.h5", 0, 10)
    code, out, err = run(path, "--binned-by", "pressure", command=command)
    assert (code, out) == (2, "")
    assert "equipment/pressure" in err


def test_the_simulated_source_names_what_its_shots_can_be_binned_by(capfd):
    with pytest.raises(SystemExit) as ended:
        main(["sacla", "live", "--bins", "0:1:2", "--binned-by", "motor", "--json"])
    assert ended.value.code == 2
    assert "'motor': the source has no such value, expected one of delay" in capfd.readouterr().err


def test_live_ends_after_the_shots_asked_for(tmp_path, run, report):
    path = make_replay(tmp_path / "run.h5", 5, 400)
    code, out, err = run(path, "--speed", 0, "--shots", 100, command="live")
    assert code == 0, err
    found = json.loads(out)
    assert 80 < found["counts"]["records"] / 8 < 300
    with h5py.File(path, "a") as file:  # the shots behind them are none
        file.attrs["tag_last"] = file.attrs["tag_first"] + 99 * file.attrs["tag_step"]
    expected, _ = report(path)
    for each in (found, expected):
        for key in ("records", "other_run", "late", "duplicate"):
            del each["counts"][key]
    del found["perf"]
    assert found == expected
    assert found["counts"]["shots_expected"] == 100


@pytest.mark.parametrize("lost", [{"gone": 12, "no value": 1}, {}])
def test_live_says_what_its_source_has_lost(monkeypatch, capfd, lost):
    class Losing(SimSource):
        @property
        def lost(self):
            return lost

    monkeypatch.setattr("skywright.instruments.sacla.sources.sim.SimSource", Losing)
    with pytest.raises(SystemExit) as ended:
        main(["sacla", "live", "--bins=-2:3:6", "--shots", "20", "--speed", "0", "--json"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    assert json.loads(out)["counts"]["shots_expected"] == 20
    said = "images and values that the source lost: 12 gone, 1 no value\n"
    assert err == (said if lost else "")


def test_without_json_people_read_counts_and_curves(tmp_path, capfd):
    path = make_replay(tmp_path / "run.h5", 0, 120)
    with pytest.raises(SystemExit) as ended:
        main(["sacla", "replay", str(path), "--roi", "a:MPCCD-A:1,1;20,1;20,20", "--bins=-2:3:5"])
    assert not ended.value.code
    out = capfd.readouterr().out
    lines = out.splitlines()
    assert any(line.split()[:1] == ["accepted"] for line in lines)
    assert "pixels of MPCCD-A" in out
    rows = [line.split() for line in lines if ".." in line]
    assert len(rows) == 5
    assert all(len(row) == 7 for row in rows)


@pytest.mark.parametrize("command", ["replay", "live"])
def test_images_that_cannot_be_written_are_refused_before_the_analysis(tmp_path, run, command):
    path = make_replay(tmp_path / "run.h5", 0, 10)
    code, out, err = run(path, "--images", tmp_path / "nowhere" / "out.npz", command=command)
    assert (code, out) == (2, "")
    assert "nowhere" in err
    assert len(err.splitlines()) == 1


def test_a_full_disk_takes_the_images_and_not_the_report(tmp_path, run):
    path = make_replay(tmp_path / "run.h5", 0, 20)
    code, out, err = run(path, "--images", "/dev/full")
    assert (code, json.loads(out)["counts"]["shots_expected"]) == (2, 20)
    assert err == "skywright: /dev/full: cannot be written (No space left on device)\n"


def record(source, *more):
    with pytest.raises(SystemExit) as ended:
        main(["sacla", "record", *map(str, more), "--speed", "0", *source])
    return int(ended.value.code or 0)


def test_a_recorded_source_is_replayed_with_the_numbers_of_its_live_analysis(
    tmp_path, report, run, capfd
):
    path = make_replay(tmp_path / "run.h5", 5, 200)
    expected, _ = report(path)
    assert record(["--source", "replay", "--file", str(path)], tmp_path / "copy.h5") == 0
    assert capfd.readouterr().err == ""  # the end of the file is no trouble
    found, _ = report(tmp_path / "copy.h5")
    assert found == expected
    plain, _ = plain_replay(tmp_path / "copy.h5", ROIS, np.linspace(-2, 3, 7).tolist(), 120)
    assert_same(found, plain)


def test_a_camera_is_recorded_without_gain_and_replayed_with_the_same_numbers(tmp_path, run):
    detectors = ("MPCCD-A", "OPAL-234363")
    path, copy = make_replay(tmp_path / "run.h5", 5, 100, detectors=detectors), tmp_path / "copy.h5"
    delete_gain(detectors[1])(path)
    assert record(["--source", "replay", "--file", str(path)], copy) == 0
    rois = [ROIS[0], ("b", detectors[1], ROIS[1][2])]
    found, expected = (json.loads(run(each, rois=rois)[1]) for each in (copy, path))
    assert found.pop("perf")
    assert expected.pop("perf")
    assert found == expected
    assert found["counts"]["accepted"] > 10


def test_a_source_without_a_record_is_no_recording(tmp_path, capfd):
    out = tmp_path / "run.h5"
    assert record(["--source", "sim", "--shots", "5", "--fault", "missing=1"], out) == 1
    assert f"{out}: not written" in capfd.readouterr().err
    assert not out.exists()


def test_a_recording_ends_at_its_number_of_shots_or_its_limit(tmp_path, capfd):
    out = tmp_path / "run.h5"
    source = SimSource(Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1), None, 0.0)
    record_replay(source, out, shots=20)
    source.close()
    with ReplayFile(out) as file:
        assert file.info.grid.count_below(file.info.grid.last + 1) == 20
        assert all(len(channel.tag) == 20 for channel in file.channels())
    messages = []
    source = SimSource(Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1), None, 0.0)
    with pytest.raises(ConfigError, match=r"run\.h5: exists already; choose another name"):
        record_replay(source, out)
    source.close()
    out.unlink()
    source = SimSource(Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1), None, 0.0)
    record_replay(source, out, most_bytes=7.5 * 32 * 32 * 4, report=messages.append)
    source.close()
    assert messages == [f"{out}: the frames have reached 3.072e-05 GB"]
    with ReplayFile(out) as file:
        assert len(file.channels()[0].tag) == 7


def test_a_recording_that_is_interrupted_can_be_replayed(tmp_path):
    class Interrupted(SimSource):
        @property
        def is_running(self):
            if self._made == 20 and not super().is_running:
                raise KeyboardInterrupt
            return super().is_running

    out = tmp_path / "run.h5"
    source = Interrupted(Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1), 20, 0.0)
    with pytest.raises(KeyboardInterrupt):
        record_replay(source, out)
    source.close()
    with ReplayFile(out) as file:
        assert file.info.grid.count_below(file.info.grid.last + 1) == 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_live_reports_what_it_found_when_it_is_interrupted(capfd, monkeypatch, number):
    class Interrupted(live.LiveShots):
        """Gets the signal with its workers, as from a terminal, after 200 records."""

        seen = 0

        def _take_record(self, record):
            self.seen += 1
            if self.seen == 200:
                workers = [each.pid for each in multiprocessing.active_children()]
                assert workers
                for process in (os.getpid(), *(workers if number == signal.SIGINT else ())):
                    os.kill(process, number)
            super()._take_record(record)

    monkeypatch.setattr(live, "LiveShots", Interrupted)
    before = [signal.getsignal(each) for each in END_SIGNALS]
    try:
        with pytest.raises(SystemExit) as ended:
            main(["sacla", "live", "--bins=-2:3:6", "--json"])
    finally:
        for each, handler in zip(END_SIGNALS, before, strict=True):
            signal.signal(each, handler)
    out, err = capfd.readouterr()
    assert (ended.value.code or 0, err) == (0, "")
    counts = json.loads(out)["counts"]
    assert counts["records"] >= 199
    assert "images_lost" not in counts


def test_live_shows_the_messages_of_its_source(monkeypatch, capfd):
    class Talking(SimSource):
        def start(self, deliver, report):
            report("A: does not answer; trying again")
            report("A: works again", False)
            super().start(deliver, report)

    monkeypatch.setattr("skywright.instruments.sacla.sources.sim.SimSource", Talking)
    with pytest.raises(SystemExit) as ended:
        main(["sacla", "live", "--bins=-2:3:6", "--shots", "5", "--speed", "0", "--json"])
    out, err = capfd.readouterr()
    assert (ended.value.code, json.loads(out)["counts"]["shots_expected"]) == (0, 5)
    assert err == "A: does not answer; trying again\nA: works again\n"


def small_source():
    return SimSource(Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1), None, 0.0)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("write failed")])
def test_a_recording_that_fails_within_a_record_ends_with_the_error_and_can_be_replayed(
    tmp_path, monkeypatch, error
):
    calls, resize = itertools.count(), h5py.Dataset.resize
    added, add = itertools.count(), ReplayWriter.add

    def failing(dataset, *size, **axis):
        resize(dataset, *size, **axis)
        if dataset.name.endswith("/data") and next(calls) == 25:
            raise error

    def counted(writer, record, arrival):
        add(writer, record, arrival)
        next(added)

    monkeypatch.setattr(h5py.Dataset, "resize", failing)
    monkeypatch.setattr(ReplayWriter, "add", counted)
    monkeypatch.setattr(replay_writer, "FLUSH_S", math.inf)
    source, out = small_source(), tmp_path / "run.h5"
    with pytest.raises(HardwareError, match=r"run\.h5: cannot be written"):
        record_replay(source, out)
    source.close()
    with ReplayFile(out) as file:
        assert file.channels()[0].tag.size == 25
        assert sum(len(channel.tag) for channel in file.channels()) == next(added)


RECORD_UNTIL_THE_DISK_FAILS = """
import resource, sys
from pathlib import Path
from skywright.errors import SkywrightError
from skywright.instruments.sacla import replay_writer
from skywright.instruments.sacla.replay_writer import record_replay
from skywright.instruments.sacla.sources.sim import SimSource
from skywright.instruments.sacla.twin import Beamline, TwinSettings

replay_writer.FLUSH_S = 0.0
source = SimSource(Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1), None, 0.0)
# As a quota: writes beyond fail.
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    record_replay(source, Path(sys.argv[1]))
except SkywrightError as error:
    print(error)
source.close()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
if sys.argv[3] == "goes on":
    source = SimSource(Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1), 20, 0.0)
    print(record_replay(source, Path(sys.argv[1]).with_name("other.h5")))
"""


@pytest.mark.parametrize("limit", [1_000, 100_000, 2_000_000])
@pytest.mark.parametrize("after", ["ends", "goes on"])
def test_a_process_whose_recording_meets_a_failing_disk_ends_or_records_again(
    tmp_path, limit, after
):
    out = tmp_path / "run.h5"
    command = [sys.executable, "-c", RECORD_UNTIL_THE_DISK_FAILS, str(out), str(limit), after]
    done = forked.run(command, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{out}: cannot be written" in done.stdout
    if limit == 2_000_000:  # room for a chunk of each column, and some frames
        with ReplayFile(out) as file:
            frame = np.empty((32, 32), np.float32)
            for channel in file.channels():
                assert len(channel.tag) > 10
                assert len(set(channel.tag)) == len(channel.tag)
                if channel.raw is None:
                    file.read_frame(channel.name, len(channel.tag) - 1, frame)
                    assert frame.any()
                else:
                    assert "" not in channel.raw
    if after == "goes on":
        with ReplayFile(tmp_path / "other.h5") as file:
            counts = [len(channel.tag) for channel in file.channels()]
            assert counts == [20] * 7
            assert done.stdout.splitlines()[-1] == str(sum(counts))


RECORD_WHILE_A_WRITE_FAILS = """
import resource, sys
from pathlib import Path
import h5py
import numpy as np
from skywright.errors import HardwareError
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.replay_writer import ReplayWriter
from skywright.instruments.sacla.twin import Beamline, TwinSettings

path = Path(sys.argv[1])
info = Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1).info
channel = next(each for each in info.channels if each not in info.tiles)
writer, added = ReplayWriter(path, info, 3), 0
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, resource.RLIM_INFINITY))
try:
    while added < 20_000:
        writer.add(Record(channel, added, info.run, added), float(added))
        added += 1
except HardwareError:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.close()
with h5py.File(path) as file:
    columns = file["equipment"][channel]
    numbers = np.arange(len(columns["tag"]))
    print(added < 20_000, len(numbers) >= added, *(
        np.allclose(columns[key][:].astype(float), numbers) for key in ("tag", "raw", "arrival")
    ))
"""


def test_rows_of_a_write_that_failed_are_written_when_the_disk_has_recovered(tmp_path):
    command = [sys.executable, "-c", RECORD_WHILE_A_WRITE_FAILS, str(tmp_path / "run.h5")]
    done = forked.run(command, capture_output=True, text=True, timeout=240)
    assert (done.stdout, done.stderr) == ("True True True True True\n", "")


def test_what_was_flushed_can_be_replayed_though_the_file_was_never_closed(
    tmp_path, monkeypatch, run
):
    info = Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1).info
    tags = [info.grid.first + number * info.grid.step for number in range(40)]
    path, copy = tmp_path / "run.h5", tmp_path / "copy.h5"
    with ReplayWriter(path, info, 3) as writer:
        for number, tag in enumerate(tags):
            monkeypatch.setattr(replay_writer, "FLUSH_S", 0.0 if number < 30 else math.inf)
            for channel in info.channels:
                payload = np.full((32, 32), 500.0) if channel in info.tiles else number + 0.5
                writer.add(Record(channel, tag, info.run, payload), float(number))
        copy.write_bytes(path.read_bytes())  # as if the process was killed here
    for file_path, count in ((copy, 30), (path, 40)):
        with ReplayFile(file_path) as file:
            for channel in file.channels():
                assert channel.tag.tolist() == tags[:count]
                assert channel.run.tolist() == [info.run] * count
                assert channel.arrival == pytest.approx(range(count), abs=1e-6)
                assert channel.raw in (None, [repr(k + 0.5) for k in range(count)])
            assert file.info.grid.last == tags[count - 1]
    code, out, err = run(copy, rois=[("a", "A", [(-1, -1), (33, -1), (33, 33), (-1, 33)])])
    assert code == 0, err
    assert json.loads(out)["counts"]["records"] == 30 * len(info.channels)


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        ({"A": (32, 32)}, ""),
        ({"A": (16, 32)}, r"detectors/A has frames of \(32, 32\) pixels, run 502 of \(16, 32\)"),
        ({"A": (32, 32), "B": (32, 32)}, r"detectors/B is not in the file, run 502 has it"),
    ],
)
def test_a_run_that_the_file_has_no_room_for_is_refused_and_what_came_before_is_kept(
    tmp_path, monkeypatch, shapes, why
):
    settings = TwinSettings(("A",), shape=(32, 32), pool=4, faults=Faults(run_shots=20))
    beamline, out = Beamline(settings, 1), tmp_path / "run.h5"
    tiles = {name: Tile(name, 15.0, np.zeros(shape, bool)) for name, shape in shapes.items()}
    later = replace(beamline.info_of(502), tiles=tiles)
    monkeypatch.setattr(beamline, "info_of", lambda _: later)
    source = SimSource(beamline, 30, 0.0)
    if why:
        with pytest.raises(DataError, match=rf"run\.h5: {why}: record run 502 in another file"):
            record_replay(source, out)
    else:
        record_replay(source, out)
    source.close()
    with ReplayFile(out) as file:
        for channel in file.channels():
            assert channel.run.tolist() == [501] * 20 + ([] if why else [502] * 10)


def test_a_frame_of_another_shape_is_refused_and_what_came_before_is_kept(tmp_path):
    info = Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1).info
    out, frame = tmp_path / "run.h5", np.ones((32, 32), np.float32)
    first = info.grid.first
    with ReplayWriter(out, info, 3) as writer:
        writer.add(Record("A", first, info.run, frame), 0.0)
        why = rf"run\.h5: detectors/A/data: the frame of tag {first + 1} of run 501 does not fit"
        with pytest.raises(DataError, match=why):
            writer.add(Record("A", first + 1, info.run, frame[:16]), 0.1)
        writer.add(Record("A", first + 2, info.run, frame), 0.2)
    with ReplayFile(out) as file:
        assert file.channels()[0].tag.tolist() == [first, first + 2]


class InterruptedDeque(deque[Any]):
    """Ctrl-C comes when it gets its fifth element."""

    def append(self, element: Any) -> None:
        if len(self) == 4:
            raise KeyboardInterrupt
        super().append(element)


def check_rows_before_interrupt(path, count):
    """Record nine values until Ctrl-C; see that the first `count` are in their rows, no others."""
    info = Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1).info
    channel = next(each for each in info.channels if each not in info.tiles)

    def record() -> None:
        with ReplayWriter(path, info, 3) as writer:
            for tag in range(9):
                writer.add(Record(channel, tag, info.run, tag), float(tag))

    with pytest.raises(KeyboardInterrupt):
        record()
    with h5py.File(path) as file:
        columns = file["equipment"][channel]
        for key in ("tag", "raw", "arrival"):
            assert columns[key][:].astype(float) == pytest.approx(range(count))


def test_an_interrupt_shifts_no_rows_of_a_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_writer, "deque", InterruptedDeque)
    check_rows_before_interrupt(tmp_path / "run.h5", 4)


def test_an_interrupt_of_a_flush_loses_no_rows(tmp_path, monkeypatch):
    calls, resize = itertools.count(), h5py.Dataset.resize

    def interrupted(dataset, *size, **axis):
        resize(dataset, *size, **axis)
        if dataset.name.endswith("/tag") and next(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(h5py.Dataset, "resize", interrupted)
    monkeypatch.setattr(replay_writer, "FLUSH_S", 0.0)
    check_rows_before_interrupt(tmp_path / "run.h5", 5)


def test_a_recording_ends_before_the_disk_is_full(tmp_path, monkeypatch):
    free = iter(range(300_000_000, 0, -1_000_000))
    usage = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=next(free)))
    monkeypatch.setattr(columns, "shutil", usage)
    source, out = small_source(), tmp_path / "run.h5"
    with pytest.raises(HardwareError, match=r"run\.h5: cannot be written .*: 51\.0 MB free"):
        record_replay(source, out)
    source.close()
    with ReplayFile(out) as file:
        assert sum(len(channel.tag) for channel in file.channels()) == 248


def test_a_recording_has_the_beamline_and_the_equipment_ids_of_the_settings(tmp_path, monkeypatch):
    source = SimSource(Beamline(TwinSettings(("A",), shape=(32, 32), pool=4), 1), 5, 0.0)
    online, out = tmp_path / "bl1.toml", tmp_path / "run.h5"
    online.write_text('beamline = 1\n[equipment]\ndelay = "bl{bl}/delay"\n')

    def made(settings, *_, **__):
        source.settings = settings
        return source

    monkeypatch.setattr("skywright.instruments.sacla.sources.sacla.SaclaSource", made)
    more = ["--source", "sacla", "--online", str(online), "--equipment", "i0=pd"]
    assert record(more, out) == 0
    with h5py.File(out) as file:
        assert file.attrs["beamline"] == 1
        ids = {key: group.attrs["id"] for key, group in file["equipment"].items()}
    assert (ids["i0"], ids["delay"]) == ("pd", "bl1/delay")
    assert ids["laser_open"] == "xfel_bl_1_lh1_shutter_1_open_valid/status"

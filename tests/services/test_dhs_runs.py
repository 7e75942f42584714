"""What is kept of a series: saved pictures, the fit of a turn, runs and derived runs."""

import asyncio
import csv
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.derived import Derived, read_runs
from support.dhs import SlowDetector, bench
from support.dhs_pictures import LIMIT_S, pictures
from support.loop_pictures import empty, to_jpeg, turned
from support.waiting import until

from skywright.callbacks.derived import DerivedRun
from skywright.callbacks.journal import Journal
from skywright.errors import HardwareError
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.cli import dhs
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.dhs import pictures as dhs_pictures
from skywright.instruments.loop.dhs import series
from skywright.instruments.loop.dhs.collection import Finding
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.dhs.recording import Recording, SeriesRecorder
from skywright.instruments.loop.dhs.service import Dhs
from skywright.instruments.loop.dhs.turn import see_turn
from skywright.instruments.loop.series_run import RecordedDetection, SeriesRun
from skywright.instruments.loop.sources.push import PushedPictures

pytestmark = pytest.mark.usefixtures("dhs_pictures")


def test_pictures_are_saved_as_they_came_and_annotated(tmp_path: Path) -> None:
    with bench(save_directory=tmp_path) as face:
        for again in ("", "_2"):
            face.collecting(f"1.{14 if not again else 15}")
            handle = "1.14" if not again else "1.15"
            face.push(pictures()[0], pictures()[1][:3000])
            face.link.start("stopCollectLoopImages", f"2.{handle}")
            assert face.link.reply(handle) == "normal done"
    saved = tmp_path / "collectLoopImages1_14"
    assert (saved / "loop_0000.jpeg").read_bytes() == pictures()[0]
    assert (saved / "loop_0001.jpeg").read_bytes() == pictures()[1][:3000]
    with Image.open(saved / "bboxes" / "automl_loop_0000.jpeg") as drawn:
        assert drawn.size == (704, 480)
        red, green, _ = np.asarray(drawn.convert("RGB")).astype(int).reshape(-1, 3).T
        assert (green - red > 80).sum() > 200, "a box is drawn"
    assert (tmp_path / "collectLoopImages1_15" / "loop_0000.jpeg").exists()


def test_the_figures_of_a_saved_picture_are_those_of_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = turned(0.0).jpeg()
    drawn: list[tuple[str, Any]] = []

    def annotate(picture: Any, found: Any, title: str, pin_box: Any) -> Any:
        drawn.append((title, pin_box))
        return picture

    monkeypatch.setattr(dhs_pictures, "annotate", annotate)
    with bench(save_directory=tmp_path) as face:
        face.collecting("1.1")
        face.push(picture)
        face.link.start("stopCollectLoopImages", "1.2")
        assert face.link.reply("1.1") == "normal done"
        (row,) = face.link.rows("1.1").values()
    _, tip_x, tip_y, pin_x, _, _, xmin, xmax, ymin, ymax, *_ = row
    ((title, pin_box),) = drawn
    words = re.fullmatch(r"0 tip (\d+),(\d+) box (\d+)x(\d+) pin (\d+),(\d+)", title)
    assert words is not None
    seen = [float(word) for word in words.groups()]
    width, height = 704, 480
    assert seen[:2] == pytest.approx([float(tip_x) * width, float(tip_y) * height], abs=1.1)
    assert seen[2] == pytest.approx((float(xmax) - float(xmin)) * width, abs=1.1)
    assert seen[3] == pytest.approx((float(ymax) - float(ymin)) * height, abs=1.1)
    assert seen[4] == pytest.approx(float(pin_x) * width, abs=1.1)
    assert pin_box[2] == pytest.approx(float(pin_x) * width, abs=1.1)


def test_an_aborted_series_saves_what_was_not_searched_and_is_not_plotted(tmp_path: Path) -> None:
    slow = SlowDetector(seconds=LIMIT_S)
    with bench(slow, DhsConfig(), tmp_path) as face:
        face.collecting("1.1")
        slow.release.set()
        face.push(pictures()[0])
        face.link.until(lambda: face.link.rows("1.1"))
        slow.release.clear()
        slow.looking.clear()
        face.push(*pictures()[1:6])
        assert slow.looking.wait(LIMIT_S)
        face.link.send("stoh_abort_all soft")
        assert face.link.reply("1.1") == "aborted"
        saved = tmp_path / "collectLoopImages1_1"
        until((saved / "loop_info.csv").exists)  # the last job of the series
        assert [path.read_bytes() for path in sorted(saved.glob("*.jpeg"))] == pictures()[:6]
        assert not list(saved.glob("*.png"))
        slow.release.set()


def test_a_turn_has_angles_a_fit_a_table_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series, "TURN_S", 60.0)
    catalog = Catalog(tmp_path / "store")
    config = DhsConfig(osci_delta=180.0, osci_time=3.0, video_fps=13.0 / 3.0)
    step = 180.0 / 13
    saved = tmp_path / "saved" / "collectLoopImages1_1"
    pictures = [turned(step * (i + 0.5)).jpeg() for i in range(12)]
    with bench(None, config, tmp_path / "saved", catalog.begin) as face:
        face.collecting("1.1")
        face.push(*pictures, b"no picture")
        face.link.start("stopCollectLoopImages", "1.2")
        assert face.link.reply("1.1") == "normal done"
        assert "face-on at" in face.link.notes()[-2]
        until((saved / "loop_info.csv").exists)  # the last job of the series
    runs = list(read_runs(catalog.directory / "journal"))
    (turn,) = [run for run in runs if run.start.get("analysis", {}).get("name") == "loop_turn"]
    assert turn.start["analysis"]["parameters"]["angles_from"] == "count"
    expected = [step * (i + 0.5) for i in range(12)]
    assert np.frombuffer(turn.columns()["phi"]) == pytest.approx(expected)
    face_on = turn.result["face_on"]
    assert min(face_on, 180.0 - face_on) < 3.0 * turn.result["face_sigma"]
    assert abs(turn.result["edge_on"] - 90.0) < 3.0 * turn.result["face_sigma"]
    assert turn.result["cos"] == pytest.approx(8.0 * np.cos(0.5), abs=1.0)
    assert turn.result["sin"] == pytest.approx(-8.0 * np.sin(0.5), abs=1.0)
    assert Path(turn.result["pictures"]).name == "plot_loop_widths.png"
    table = list(csv.DictReader((saved / "loop_info.csv").open()))
    assert len(table) == 13
    assert [row["status"] for row in table] == ["normal"] * 12 + ["failed"]
    assert table[3]["loopClass"] == "nylon"
    assert (table[3]["why"], table[12]["why"]) == ("", "undecodable")
    assert set(list(table[12].values())[3:-1]) == {""}, "no values"
    for name, size in {"pandas_plot.png": (800, 1200), "plot_loop_widths.png": (800, 600)}.items():
        with Image.open(saved / name) as plot:
            assert plot.size == size


def test_the_next_series_does_not_wait_for_the_fit_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, may_fit = series.see_turn, threading.Event()

    def fit_when_allowed(*arguments: Any) -> Any:
        may_fit.wait(LIMIT_S)
        return fit(*arguments)

    monkeypatch.setattr(series, "see_turn", fit_when_allowed)
    monkeypatch.setattr(series, "TURN_S", 0.1)
    monkeypatch.setattr(series, "BEGIN_S", 2.0)
    catalog = Catalog(tmp_path)
    try:
        with bench(None, DhsConfig(), begin_run=catalog.begin) as face:
            for handle in ("1.1", "1.2"):
                face.collecting(handle)
                face.push(*pictures()[:2])
                face.link.start("stopCollectLoopImages", f"{handle}0")
                assert face.link.reply(handle) == "normal done"
            may_fit.set()
    finally:
        may_fit.set()
    runs = [run.start.get("analysis", {}).get("name") for run in read_runs(tmp_path / "journal")]
    assert runs.count("loop_turn") == 2


def test_the_next_series_does_not_wait_for_the_drawings_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, may_draw = series.draw_sheet, threading.Event()

    def draw_when_allowed(recording: Recording) -> dict[str, bytes]:
        may_draw.wait(LIMIT_S)
        return draw(recording)

    monkeypatch.setattr(series, "draw_sheet", draw_when_allowed)
    first, second = Catalog(tmp_path / "first"), Catalog(tmp_path / "second")
    catalogs = [first, second]
    with bench(begin_run=lambda metadata: catalogs.pop(0).begin(metadata)) as face:
        for handle, count in (("1.1", 3), ("1.2", 5)):
            face.collecting(handle)
            face.push(*pictures()[:count])
            face.link.start("stopCollectLoopImages", f"{handle}0")
            assert face.link.reply(handle) == "normal done"
        assert not first.is_over()
        may_draw.set()
        until(lambda: first.is_over() and second.is_over())
    for catalog, count in ((first, 3), (second, 5)):
        raw, derived = catalog.runs()
        assert catalog.is_over()
        assert len(raw.rows("axis_image")) == count
        assert Path(derived.result["pictures"]).name == "contact_sheet.png"


def test_the_end_waits_for_the_drawing_under_way_and_leaves_out_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, close = series.draw_sheet, series.SeriesOperations.close
    is_drawing, may_draw = threading.Event(), threading.Event()

    def draw_when_allowed(recording: Recording) -> dict[str, bytes]:
        is_drawing.set()
        may_draw.wait(LIMIT_S)
        return draw(recording)

    async def close_amid_the_drawing(operations: series.SeriesOperations) -> None:
        is_drawing.wait(LIMIT_S)
        closing = asyncio.create_task(close(operations))
        await asyncio.sleep(0)  # it has begun
        may_draw.set()
        await closing

    monkeypatch.setattr(series, "draw_sheet", draw_when_allowed)
    monkeypatch.setattr(series.SeriesOperations, "close", close_amid_the_drawing)
    catalog, saved = Catalog(tmp_path / "store"), tmp_path / "saved"
    with bench(begin_run=catalog.begin, save_directory=saved) as face:
        face.collecting("1.1")
        face.push(*pictures()[:3])
        face.link.start("stopCollectLoopImages", "1.2")
        assert face.link.reply("1.1") == "normal done"
    _, derived = catalog.runs()
    assert catalog.is_over()
    assert Path(derived.result["pictures"]).name == "contact_sheet.png"
    names = [path.name for path in (saved / "collectLoopImages1_1").glob("*.*")]
    assert sorted(names) == [*(f"loop_000{index}.jpeg" for index in range(3)), "loop_info.csv"]


class Catalog:
    """Runs as they get into a store's journal."""

    def __init__(self, directory: Path, kind: type[SeriesRun] = SeriesRun) -> None:
        self.directory, self.kind = directory, kind
        self.journal = Journal(directory / "journal")

    def begin(self, metadata: Mapping[str, Any]) -> SeriesRun:
        metadata = {"sample": "x7", **metadata}
        return self.kind(RecordedDetection(), self.journal, self.directory / "assets", metadata)

    def runs(self) -> tuple[Derived, Derived]:
        """Return the documents of the raw and of the derived run, checked against the schema."""
        raw, derived = sorted(read_runs(self.directory / "journal"), key=_is_derived)
        return raw, derived

    def is_over(self) -> bool:
        return all(run.stop is not None for run in self.runs())


def _is_derived(run: Derived) -> bool:
    return "raw_uid" in run.start


def test_a_series_is_a_run_with_its_derived_run(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    with bench(begin_run=catalog.begin) as face:
        face.collecting("1.14", 0.2)
        face.push(*pictures()[:5], pictures()[5][:2000], *pictures()[6:8])
        face.link.start("stopCollectLoopImages", "1.15")
        assert face.link.reply("1.14") == "normal done"
        until(catalog.is_over)
    raw, derived = catalog.runs()
    assert raw.start["plan_name"] == "collectLoopImages"
    assert raw.start["operation"]["handle"] == "1.14"
    assert (derived.start["raw_uid"], derived.start["sample"]) == (raw.start["uid"], "x7")
    assert derived.start["analysis"]["name"] == "loop_detection"
    assert derived.start["analysis"]["inputs"]["image"] == "axis_image"
    recorded = raw.columns()
    assert len(recorded["axis_image"]) == 7 * 480 * 704
    assert recorded["axis_frame_number"] == derived.columns()["identity"]
    assert recorded["axis_frame_time"] == derived.columns()["frame_time"]
    for run in (raw, derived):
        assert run.stop is not None
        assert run.stop["exit_status"] == "success"
    assert (derived.result["n_nylon"], derived.result["n_frames"]) == (7, 7)
    with Image.open(derived.result["pictures"]) as sheet:
        assert Path(sheet.filename).name == "contact_sheet.png"


def test_a_short_series_of_another_size_is_described_with_its_own(tmp_path: Path) -> None:
    catalogs = [Catalog(tmp_path / "large"), Catalog(tmp_path / "small")]
    small = catalogs[1]
    with bench(begin_run=lambda metadata: catalogs.pop(0).begin(metadata)) as face:
        for handle, picture in (("1.1", empty()), ("1.2", empty()[:240, :352])):
            face.collecting(handle)
            face.push(to_jpeg(picture))
            face.link.start("stopCollectLoopImages", f"{handle}0")
            assert face.link.reply(handle) == "normal done"
        until(small.is_over)
    raw, _ = small.runs()
    assert raw.rows("axis_image").shape == (1, 240, 352)
    assert raw.of("descriptor")[0]["data_keys"]["axis_image"]["shape"] == [240, 352]


def test_a_series_whose_file_cannot_be_created_has_no_rows(tmp_path: Path) -> None:
    class Taken(SeriesRun):
        """A run whose file exists already."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.path.touch()

    catalogs = [Catalog(tmp_path / "first"), Catalog(tmp_path / "second", Taken)]
    second = catalogs[1]
    with bench(begin_run=lambda metadata: catalogs.pop(0).begin(metadata)) as face:
        for handle in ("1.1", "1.2"):
            face.collecting(handle)
            face.push(pictures()[0])
            face.link.start("stopCollectLoopImages", f"{handle}0")
            assert face.link.reply(handle) == "normal done"
        until(second.is_over)
    raw, _ = second.runs()
    assert raw.of("stream_datum") == []


def test_an_aborted_series_is_an_aborted_run(tmp_path: Path) -> None:
    catalog, other = Catalog(tmp_path), Catalog(tmp_path / "other")
    catalogs = [other, catalog]
    with bench(begin_run=lambda metadata: catalogs.pop(0).begin(metadata)) as face:
        face.collecting("1.0")
        face.collecting("1.1")
        face.push(*pictures()[:3])
        face.link.until(lambda: len(face.link.rows("1.1")) == 3)
        face.link.send("stoh_abort_all hard")
        face.link.reply("1.1")
        until(catalog.is_over)
    for run in other.runs():
        assert run.stop is not None
        assert (run.stop["exit_status"], run.stop["reason"]) == ("abort", "a new series has begun")
    for run in catalog.runs():
        assert run.stop is not None
        assert (run.stop["exit_status"], run.stop["reason"]) == ("abort", "aborted by DCSS")
        assert len(run.columns()) >= 3


def test_a_camera_that_refuses_fails_the_run_and_leaves_no_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise HardwareError("no route to host")

    catalog = Catalog(tmp_path)
    with bench(begin_run=catalog.begin) as face:
        monkeypatch.setattr(face.source, "start", refuse)
        assert face.link.run("collectLoopImages", "1.1") == "error no route to host"
        assert not face.camera.state().capturing
    for run in catalog.runs():
        assert run.stop is not None
        assert (run.stop["exit_status"], run.stop["reason"]) == ("fail", "no route to host")


def test_a_scratch_directory_that_was_cleaned_up_is_made_anew() -> None:
    camera = Camera(PushedPictures())
    recorder = SeriesRecorder(camera, None)
    recorder.close()
    recording = recorder.begin({}, lambda _: None)
    assert recording.path.parent.is_dir()
    recording.end()
    recorder.close()
    camera.close()


def test_a_finding_that_comes_while_others_are_reported_is_reported_next(tmp_path: Path) -> None:
    class Growing(list[Finding]):
        def __getitem__(self, place: Any) -> Any:
            found = super().__getitem__(place)
            if len(self) < 2:
                self.append(Finding(1, 1, 1.0, nothing, (704, 480), "network"))
            return found

    nothing = Detection()
    catalog = Catalog(tmp_path)
    camera = Camera(PushedPictures())
    first = Finding(0, 0, 0.0, nothing, (704, 480), "network")
    recording = Recording(camera, tmp_path, catalog.begin({}), Growing([first]))
    recording.report()
    recording.end_run("success", "")
    camera.close()
    _, derived = catalog.runs()
    assert derived.result["n_frames"] == 2


def test_a_store_that_refuses_does_not_stop_the_series(tmp_path: Path) -> None:
    def refuse(metadata: Mapping[str, Any]) -> SeriesRun:
        raise OSError("disk full")

    with bench(begin_run=refuse) as face:
        face.collecting("1.1")
        face.push(pictures()[0])
        face.link.start("stopCollectLoopImages", "1.2")
        assert face.link.reply("1.1") == "normal done"
        assert face.link.run("reboxLoopImage", "1.3", 0, 0, 1).startswith("normal 0")


def test_a_run_whose_files_cannot_be_made_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(DerivedRun, "_make_files", refuse)
    catalog = Catalog(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        catalog.begin({})
    for run in catalog.runs():
        assert run.stop is not None
        assert (run.stop["exit_status"], run.stop["reason"]) == ("fail", "OSError: disk full")


def test_a_turn_that_cannot_be_kept_is_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk full")

    catalog = Catalog(tmp_path)
    made = catalog.begin({})
    made.close(0, (0, 0))
    monkeypatch.setattr(DerivedRun, "add", refuse)
    found = [Finding(0, 0, 0.0, Detection(), (704, 480), "network")]
    turn = see_turn(found, DhsConfig())
    assert turn is not None
    with pytest.raises(OSError, match="disk full"):
        made.derive(turn.analysis.fresh(), turn.batch, {})
    _, _, last = sorted(read_runs(tmp_path / "journal"), key=lambda run: run.start["time"])
    assert last.stop is not None
    assert (last.stop["exit_status"], last.stop["reason"]) == ("fail", "OSError: disk full")


def test_the_end_does_not_wait_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(series, "SAVE_S", 0.1)
    monkeypatch.setattr(series, "HANG_S", 0.2)
    camera, goes_on = Camera(PushedPictures()), threading.Event()

    async def close() -> None:
        operations = Dhs("loopDHS", camera, SlowDetector(), save_directory=tmp_path)._series
        operations._save.submit(goes_on.wait, LIMIT_S)
        try:
            await asyncio.wait_for(operations.close(), 20.0)
        finally:
            goes_on.set()

    asyncio.run(close())
    camera.close()
    assert f"{tmp_path}: not all is saved (a slow disk" in caplog.text


def test_the_end_does_not_wait_for_a_recording_that_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dhs, "CLOSE_S", 0.2)
    camera, goes_on = Camera(PushedPictures()), threading.Event()
    close = camera.close
    monkeypatch.setattr(camera, "close", lambda: goes_on.wait(LIMIT_S))

    async def end() -> None:
        try:
            await asyncio.wait_for(dhs._close(camera), 20.0)
            assert not goes_on.is_set()
        finally:
            goes_on.set()

    asyncio.run(end())
    close()
    assert "the recording is not closed after 0.2 s" in caplog.text


def test_dcss_gone_in_the_middle_of_a_series(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    with bench(begin_run=catalog.begin) as face:
        face.collecting("1.1")
        face.push(*pictures()[:2])
        face.link.until(lambda: face.link.rows("1.1"))
        face.link.close()
        until(catalog.is_over)
        assert not face.camera.state().acquiring

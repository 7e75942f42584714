"""Series of pictures: a row for each, whatever happens to pictures, detector, disk and DCSS."""

import asyncio
import csv
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.derived import Derived, read_runs
from support.dhs import Bench, SlowDetector, bench
from support.loop_pictures import empty, to_jpeg, turned
from support.waiting import until

from skywright.callbacks.derived import DerivedRun
from skywright.callbacks.journal import Journal
from skywright.errors import HardwareError
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.cli import dhs
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.dhs import collection, series
from skywright.instruments.loop.dhs import pictures as dhs_pictures
from skywright.instruments.loop.dhs.collection import Collection, Finding
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.dhs.recording import Recording, SeriesRecorder
from skywright.instruments.loop.dhs.service import Dhs
from skywright.instruments.loop.dhs.turn import see_turn
from skywright.instruments.loop.series_run import RecordedDetection, SeriesRun
from skywright.instruments.loop.sources import SourceFrame
from skywright.instruments.loop.sources.push import PushedPictures

LIMIT_S = 120.0


@cache
def pictures() -> list[bytes]:
    """Return half a turn, as files."""
    return [turned(2.0 * i).jpeg() for i in range(90)]


@pytest.fixture(scope="module", autouse=True)
def _pictures_are_drawn() -> None:
    pictures()  # a series waits 14 s for its first picture, a busy machine draws longer


@pytest.fixture
def face() -> Iterator[Bench]:
    with bench() as made:
        yield made


def test_ninety_pictures_lost_doubled_truncated_over_two_connections(face: Bench) -> None:
    sent = [data for i, data in enumerate(pictures()) if i % 17 != 3]  # some never come
    sent.insert(40, sent[39])
    sent[60] = sent[60][: len(sent[60]) // 2]
    sent[70] = b"\xff\xd8\xff no picture"
    face.collecting("1.14", 0.2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: face.push(*part), (sent[0::2], sent[1::2])))
    assert face.link.run("stopCollectLoopImages", "1.15") == "normal flag set"
    assert face.link.reply("1.14") == "normal done"
    rows = face.link.rows("1.14")
    assert list(rows) == list(range(len(sent))), "in order, a row for every picture"
    failed = [row for row in rows.values() if row[0] != "normal"]
    assert failed == [["failed", "undecodable"]] * 2
    for row in rows.values():
        assert row[0] == "failed" or len(row) == 14
        assert all(len(word.partition(".")[2]) <= 5 for word in row[1:])
    assert f"{len(sent)} received" in face.link.notes()[-1]
    assert "2 undecodable, 1 doubled" in face.link.notes()[-1]
    assert len(face.link.completions("1.14")) == 1
    assert not any("BROKEN" in text for text in face.link.messages)


def test_the_series_ends_after_what_comes_late(
    face: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "LATE_S", 3.0)
    face.collecting("1.1")
    assert face.link.run("stopCollectLoopImages", "1.2") == "normal flag set"
    face.push(pictures()[0])
    assert face.link.reply("1.1") == "normal done"
    assert list(face.link.rows("1.1")) == [0]


def test_pictures_long_after_the_stop_do_not_keep_the_series_going(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collection, "LATE_S", 0.0)
    frame = SourceFrame(0, 0.0, b"no picture")

    async def collect() -> list[int]:
        with ThreadPoolExecutor(1) as search:
            made = Collection(SlowDetector(), search, "key", DhsConfig())
            made.take(frame)
            made.stop()
            reported = []
            while (finding := await made.next()) is not None:
                reported.append(finding.index)
                assert len(reported) < 10, "it does not end"
                made.take(frame)  # a server that sends on and on
            return reported

    assert asyncio.run(collect()) == [0]


def test_a_picture_that_is_queued_while_the_series_ends_gets_its_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collection, "LATE_S", 1.0)

    async def collect() -> int:
        with ThreadPoolExecutor(1) as search:
            made = Collection(SlowDetector(), search, "key", DhsConfig())
            made.stop()
            last = partial(take_before_the_end, made)
            monkeypatch.setattr(collection, "time", SimpleNamespace(monotonic=last))
            finding = await made.next()
            assert finding is not None, "the picture was counted, and has no row"
            return finding.index

    def take_before_the_end(made: Collection) -> float:
        """Return a time after the end; the source's thread takes a picture just before it."""
        monkeypatch.setattr(collection, "time", time)
        made.take(SourceFrame(0, 0.0, b"no picture"))
        return time.monotonic() + 100.0

    assert asyncio.run(collect()) == 0


def test_pictures_after_the_end_of_a_series_are_not_counted() -> None:
    async def collect() -> Mapping[str, int]:
        with ThreadPoolExecutor(1) as search:
            made = Collection(
                SlowDetector(), search, "key", DhsConfig(osci_time=1.0, video_fps=1.0)
            )
            made.take(SourceFrame(0, 0.0, b"no picture"))
            made.stop()
            while await made.next() is not None:
                pass
            made.take(SourceFrame(1, 0.0, b"late"))
            return made.fates()

    assert asyncio.run(collect())["received"] == 1


def test_with_all_that_were_expected_nothing_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collection, "LATE_S", 100.0)
    with bench(config=DhsConfig(osci_delta=0.0, osci_time=1.0, video_fps=2.0)) as face:
        face.collecting("1.1")
        face.push(*pictures()[:2])
        face.link.start("stopCollectLoopImages", "1.2")
        assert face.link.reply("1.1") == "normal done"
        assert "2 expected, 2 received" in face.link.notes()[-1]


def test_the_note_has_the_number_of_a_usual_turn() -> None:
    with bench() as face:
        face.collecting("1.1")
        face.push(*pictures()[:2])
        assert face.link.run("stopCollectLoopImages", "1.2") == "normal flag set"
        assert face.link.reply("1.1") == "normal done"
        assert (
            "90 expected, 2 received, 2 analysed (network 2), 0 failed" in (face.link.notes()[-1])
        )


def test_a_stop_before_any_picture_ends_the_series_even_in_one_segment(face: Bench) -> None:
    face.link.send("stoh_start_operation collectLoopImages 1.1 0.2")
    face.link.send(
        "stoh_start_operation stopCollectLoopImages 1.2",
        "stoh_start_operation collectLoopImages 1.3",
        "stoh_start_operation stopCollectLoopImages 1.4",
    )
    assert face.link.reply("1.1") in ("aborted", "normal done")
    assert face.link.reply("1.3") == "normal done"
    assert face.link.reply("1.2") == face.link.reply("1.4") == "normal flag set"


def test_quiet_ends_a_series_and_silence_is_an_error(
    face: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "QUIET_S", 0.3)
    face.collecting("1.1")
    face.push(pictures()[0])
    assert face.link.reply("1.1") == "normal done"
    monkeypatch.setattr(collection, "FIRST_S", 0.2)
    assert face.link.run("collectLoopImages", "1.2") == "error failed to get image"
    assert face.link.run("stopCollectLoopImages", "1.3") == "normal flag set"


def test_a_slow_end_of_the_series_before_takes_no_time_from_the_next(
    face: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, wait_s = SeriesRecorder.begin, [1.6, 60.0]
    free = threading.Event()

    def begin_late(*arguments: Any) -> Recording:
        free.wait(wait_s.pop(0))
        return begin(*arguments)

    monkeypatch.setattr(SeriesRecorder, "begin", begin_late)
    monkeypatch.setattr(collection, "FIRST_S", 1.5)
    face.collecting("1.1")
    face.push(pictures()[0])
    face.link.start("stopCollectLoopImages", "1.2")
    assert face.link.reply("1.1") == "normal done"
    monkeypatch.setattr(series, "BEGIN_S", 0.1)
    answer = face.link.run("collectLoopImages", "1.3")
    assert answer == "error the recording has not begun after 0.1 s, is the disk slow?"
    free.set()


def test_a_detector_that_takes_color_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    find = SlowDetector.find

    def find_in_color(detector: SlowDetector, picture: Any, *rest: Any) -> Any:
        seen.append(picture.shape)
        return find(detector, picture, *rest)

    monkeypatch.setattr(SlowDetector, "find", find_in_color)
    monkeypatch.setattr(SlowDetector, "color", True)
    with bench(SlowDetector()) as face:
        face.snapshots[:] = [pictures()[0]]
        face.collecting("1.1")
        face.push(pictures()[0])
        face.link.start("stopCollectLoopImages", "1.2")
        assert face.link.reply("1.1") == "normal done"
        assert face.link.run("getLoopTip", "1.3").startswith("normal ")
    assert seen == [(480, 704, 3)] * 2


def test_a_second_start_aborts_the_first(face: Bench) -> None:
    face.collecting("1.1")
    face.push(pictures()[0])
    face.collecting("1.2")
    assert face.link.reply("1.1") == "aborted"
    face.push(pictures()[1], pictures()[2])
    face.link.start("stopCollectLoopImages", "1.3")
    assert face.link.reply("1.2") == "normal done"
    assert list(face.link.rows("1.2")) == [0, 1]
    assert len(face.link.completions("1.1")) == 1


def test_abort_in_the_middle_while_a_picture_is_searched() -> None:
    slow = SlowDetector(seconds=30.0)
    with bench(slow) as face:
        face.snapshots[:] = [pictures()[0]]
        face.collecting("1.1")
        face.push(*pictures()[:10])
        face.link.start("getLoopTip", "1.2")
        assert slow.looking.wait(90)
        asked = time.monotonic()
        face.link.send("stoh_abort_all soft")
        assert face.link.reply("1.1") == face.link.reply("1.2") == "aborted"
        assert face.link.times[-1] - asked < 1.0
        until(lambda: not face.camera.state().acquiring)
        face.push(pictures()[11])  # the receiver answers, and nobody takes it
        slow.seconds = 0.0
        slow.release.set()
        face.collecting("1.3")
        face.push(pictures()[0])
        face.link.start("stopCollectLoopImages", "1.4")
        assert face.link.reply("1.3") == "normal done"
        assert list(face.link.rows("1.3")) == [0]
        assert face.link.rows("1.1") == {}


def test_a_snapshot_during_a_series(face: Bench) -> None:
    face.snapshots[:] = [pictures()[0]]
    face.collecting("1.1")
    face.push(*pictures()[:5])
    assert face.link.run("getLoopTip", "1.2").startswith("normal ")
    face.push(*pictures()[5:10])
    face.link.start("stopCollectLoopImages", "1.3")
    assert face.link.reply("1.1") == "normal done"
    assert list(face.link.rows("1.1")) == list(range(10))


def test_rows_say_what_is_wrong_with_a_picture(face: Bench) -> None:
    face.collecting("1.1")
    dark = to_jpeg(np.full((480, 704), 8, np.uint8))
    cut = turned(0.0).__class__(stem_end=560.0, tip=720.0).jpeg()
    face.push(dark, to_jpeg(empty()), cut, pictures()[0])
    face.link.start("stopCollectLoopImages", "1.2")
    face.link.reply("1.1")
    rows = {index: " ".join(row) for index, row in face.link.rows("1.1").items()}
    assert rows[0] == "failed flat image"
    assert rows[1] == "failed no loop or pin in view"
    assert rows[2] == "failed clipped"
    assert rows[3].startswith("normal ")


def test_rebox_measures_between_the_brackets(face: Bench) -> None:
    assert face.link.run("reboxLoopImage", "1.0", 0, 0.4, 0.6) == "error no_such_image"
    face.collecting("1.1")
    face.push(pictures()[0], b"\xff\xd8\xff no picture", pictures()[45])
    face.link.start("stopCollectLoopImages", "1.2")
    face.link.reply("1.1")

    def rebox(handle: str, *arguments: object) -> list[str]:
        return face.link.run("reboxLoopImage", handle, *arguments).split()

    whole, drawn = rebox("2.0", 0, 0.0, 1.0), turned(0.0)
    assert whole[:2] == ["normal", "0"]
    low, high, width = map(float, whole[2:])
    assert low * 480 == pytest.approx(drawn.row - drawn.half, abs=2)
    assert high * 480 == pytest.approx(drawn.row + drawn.half, abs=2)
    assert width == pytest.approx(high - low, abs=2e-5)
    part = rebox("2.1", 0, 200 / 704, 300 / 704)  # the stem alone
    assert float(part[4]) * 480 == pytest.approx(9.0, abs=3)
    edge_on = rebox("2.2", 2, 0.5, 0.62)
    assert float(edge_on[4]) * 480 == pytest.approx(2 * turned(90.0).half, abs=3)
    assert rebox("2.3", 1, 0.0, 1.0) == ["error", "no_such_image"]
    assert rebox("2.4", 3, 0.0, 1.0) == rebox("2.5", -1, 0.0, 1.0) == ["error", "no_such_image"]
    assert rebox("2.6", 0, 0.6, 0.6) == ["error", "bad_bracket"]
    assert rebox("2.7", 0, 0.9, 0.95)[0] == "error"  # nothing is there
    assert rebox("2.8", 0)[0] == rebox("2.9", "a", 0, 1)[0] == "error"


def test_rebox_never_answers_from_the_series_before_the_last(face: Bench) -> None:
    face.collecting("1.1")
    face.push(pictures()[0])
    face.link.start("stopCollectLoopImages", "1.2")
    assert face.link.reply("1.1") == "normal done"
    assert face.link.run("reboxLoopImage", "1.3", 0, 0, 1).startswith("normal 0 ")
    face.collecting("1.4")
    face.link.send("stoh_abort_all soft")
    assert face.link.reply("1.4") == "aborted"
    assert face.link.run("reboxLoopImage", "1.5", 0, 0, 1) == "error no_such_image"


def test_too_slow_a_search_loses_rows_not_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "QUEUE_BYTES", 5 * len(pictures()[0]))
    slow = SlowDetector(seconds=30.0)
    save, disk_is_free = dhs_pictures.Saver.save, threading.Event()

    def save_when_free(saver: dhs_pictures.Saver, index: int, frame: SourceFrame) -> None:
        if threading.current_thread().name.startswith("save"):
            disk_is_free.wait(LIMIT_S)
        save(saver, index, frame)

    close = series.SeriesOperations.close
    at_end: list[Path] = []
    saved = tmp_path / "collectLoopImages1_1"

    async def close_and_count(operations: series.SeriesOperations) -> None:
        threading.Timer(0.2, disk_is_free.set).start()
        await close(operations)
        at_end.extend(saved.glob("loop_*.jpeg"))

    monkeypatch.setattr(dhs_pictures.Saver, "save", save_when_free)
    monkeypatch.setattr(series.SeriesOperations, "close", close_and_count)
    with bench(slow, save_directory=tmp_path) as face:
        face.collecting("1.1")
        face.push(*pictures()[:30])
        until(lambda: face.camera.state().rows_readable == 30)
        slow.release.set()
        face.link.start("stopCollectLoopImages", "1.2")
        assert face.link.reply("1.1") == "normal done"
        rows = face.link.rows("1.1")
        assert list(rows) == list(range(30))
        skipped = [index for index, row in rows.items() if row == ["failed", "skipped"]]
        assert 20 <= len(skipped) < 30
        searched = sorted(set(range(30)) - set(skipped))
        assert sorted(slow.keys) == sorted(f"collectLoopImages:1.1:{index}" for index in searched)
        assert f"{len(skipped)} skipped" in face.link.notes()[-1]
        # They can be asked for all the same: the file has them.
        assert face.link.run("reboxLoopImage", "1.3", skipped[0], 0, 1).startswith("normal")
    assert len(at_end) == 30


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


def test_a_full_disk_does_not_stop_the_series(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_directory(*_: object, **__: object) -> str:
        return "/dev/null/full"  # below which nothing can be made

    monkeypatch.setattr(tempfile, "mkdtemp", no_directory)
    with bench() as face:
        face.collecting("1.1")
        face.push(pictures()[0])
        face.link.start("stopCollectLoopImages", "1.2")
        assert face.link.reply("1.1") == "normal done"
        assert face.link.run("reboxLoopImage", "1.3", 0, 0, 1) == "error no_such_image"


def test_a_stop_while_the_detector_is_loaded_ends_the_series() -> None:
    warm = asyncio.Event()
    with bench(warm=warm) as face:
        face.link.start("collectLoopImages", "1.1")
        face.link.until(lambda: bool(face.link.notes()))
        assert face.link.run("stopCollectLoopImages", "1.2") == "normal flag set"
        face.loops[0].call_soon_threadsafe(warm.set)
        assert face.link.reply("1.1") == "normal done"
        assert "start_oscillation" not in str(face.link.updates("1.1"))


def test_a_stop_while_the_series_before_ends_turns_no_spindle(
    face: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, free = SeriesRecorder.begin, threading.Event()

    def begin_late(*arguments: Any) -> Recording:
        free.wait(LIMIT_S)
        return begin(*arguments)

    monkeypatch.setattr(SeriesRecorder, "begin", begin_late)
    face.link.start("collectLoopImages", "1.1")
    assert face.link.run("stopCollectLoopImages", "1.2") == "normal flag set"
    free.set()
    assert face.link.reply("1.1") == "normal done"
    assert face.link.updates("1.1") == []


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

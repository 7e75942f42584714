"""Series of pictures: a row for each, whatever happens to pictures, detector, disk and DCSS."""

import asyncio
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.dhs import Bench, SlowDetector, bench
from support.dhs_pictures import LIMIT_S, pictures
from support.loop_pictures import empty, to_jpeg, turned
from support.waiting import until

from skywright.instruments.loop.dhs import collection, series
from skywright.instruments.loop.dhs import pictures as dhs_pictures
from skywright.instruments.loop.dhs.collection import Collection
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.dhs.recording import Recording, SeriesRecorder
from skywright.instruments.loop.sources import SourceFrame

pytestmark = pytest.mark.usefixtures("dhs_pictures")


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

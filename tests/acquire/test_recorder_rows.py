"""Items of many rows: counts, choices and misfits go by rows."""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hand_source import HEIGHT, IDENTITY, events, layout
from support.owners import identities
from support.waiting import until

from skywright.acquire import recorder as recorder_module
from skywright.acquire import row_queue as row_queue_module
from skywright.acquire.acquisition import RefusedError
from skywright.acquire.columns_layout import ColumnsLayout, Rows
from skywright.acquire.index_layout import IndexLayout, Records
from skywright.acquire.layout import GROUPS_PER_WRITE
from skywright.acquire.recorder import Recorder
from skywright.errors import DataError
from skywright.files.columns import Column, ColumnWriter
from skywright.files.index import OFFSET, SIZE, IndexWriter


@pytest.fixture
def recorder() -> Iterator[Recorder[Any, Any]]:
    recorder: Recorder[Any, Any] = Recorder(layout())
    yield recorder
    recorder.close()


def test_a_recording_of_a_number_of_rows_ends_within_a_row_group(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    recorder.start(tmp_path / "a.h5", count=7)
    for first in (0, 5, 10):
        recorder.offer(events(first, 5))
    recorder.stop()
    assert recorder.rows_readable == 7
    assert identities(tmp_path / "a.h5") == list(range(7))


def test_a_start_that_fails_forgets_the_rows_of_the_recording_before(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    recorder.start(tmp_path / "a.h5")
    recorder.offer(events(0, 5))
    recorder.stop()
    assert recorder.rows_readable == 5
    assert recorder.start(tmp_path / "a.h5")
    assert recorder.rows_readable == 0


def test_two_recorders_do_not_record_to_one_path(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    """The file of the first one is created only when rows come."""
    path, other = tmp_path / "a.h5", Recorder[Any, Any](layout())
    assert recorder.start(path) == ""
    error = other.start(path)
    assert error == other.error == f"{path}: another recording uses this path; choose another name"
    assert other.path is None
    assert recorder.start(path) == ""  # its own path is free again
    recorder.offer(events(0, 5))
    recorder.stop()
    assert (identities(path), recorder.lost) == ([0, 1, 2, 3, 4], {})
    assert other.start(tmp_path / "absent" / "a.h5")  # a start that fails keeps no path
    (tmp_path / "absent").mkdir()
    assert recorder.start(tmp_path / "absent" / "a.h5") == ""
    recorder.stop()  # no rows came, so there is no file
    assert other.start(tmp_path / "absent" / "a.h5") == ""
    other.close()


def test_the_end_of_a_recording_of_a_number_of_rows_is_told(tmp_path: Path) -> None:
    told: list[Path | None] = []
    recorder: Recorder[Any, Any] = Recorder(layout(), changed=lambda: told.append(recorder.path))
    recorder.start(tmp_path / "a.h5", count=2)
    assert told[-1] is not None
    recorder.offer(events(0, 2))
    until(lambda: told[-1] is None)
    recorder.close()


def test_a_recording_that_is_over_has_its_final_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[Path | None] = []
    recorder: Recorder[Any, Any] = Recorder(layout())
    close = ColumnWriter.close

    def note_path_and_close(writer: ColumnWriter) -> None:
        paths.append(recorder.path)
        recorder.offer(events(2, 1))  # too late
        close(writer)

    monkeypatch.setattr(ColumnWriter, "close", note_path_and_close)
    recorder.start(tmp_path / "a.h5", count=2)
    recorder.offer(events(0, 2))
    until(lambda: recorder.path is None)
    assert recorder.rows_readable == 2
    recorder.close()
    assert (paths, recorder.lost) == ([tmp_path / "a.h5"], {})


def test_rows_that_come_during_a_stop_are_no_loss(
    recorder: Recorder[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.start(tmp_path / "a.h5")
    recorder.offer(events(0, 5))
    end = recorder._end

    def offer_and_end() -> None:
        recorder.offer(events(5, 5))
        end()

    monkeypatch.setattr(recorder, "_end", offer_and_end)
    recorder.stop()
    monkeypatch.undo()
    recorder.close()
    assert (identities(tmp_path / "a.h5"), recorder.lost) == ([0, 1, 2, 3, 4], {})


def test_rows_after_the_last_one_of_a_recording_are_no_loss(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    recorder.start(tmp_path / "a.h5", count=7)
    with recorder._file_lock:  # the disk is slow: they are in more than one write
        for number in range(3 * GROUPS_PER_WRITE):
            recorder.offer(events(5 * number, 5))
    recorder.stop()
    assert (recorder.rows_readable, recorder.lost) == (7, {})
    assert identities(tmp_path / "a.h5") == list(range(7))


def test_rows_that_a_recording_did_not_wait_for_are_not_in_the_next_one(
    recorder: Recorder[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "STOP_LIMIT_S", 0.05)
    recorder.start(tmp_path / "a.h5")
    with recorder._file_lock:  # the disk is slow: the thread has taken rows, and waits for it
        recorder.offer(events(0, 5))
        until(lambda: not recorder._queue._entries)
        recorder.start(tmp_path / "b.h5")
    monkeypatch.undo()
    recorder.offer(events(5, 5))
    recorder.stop()
    assert identities(tmp_path / "b.h5") == list(range(5, 10))
    assert recorder.lost == {"events not written": 5}


def test_a_row_that_waits_for_room_when_the_recording_ends_is_not_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "STOP_LIMIT_S", 0.05)
    recorder: Recorder[Any, Any] = Recorder(
        layout(), queue_bytes=events(0, 5).nbytes, queue_timeout_s=60.0
    )
    recorder.start(tmp_path / "a.h5")
    held, released = threading.Event(), threading.Event()

    def hold_up() -> None:
        held.set()
        until(released.is_set)

    recorder.call_when_visible(hold_up)
    assert held.wait(60)
    recorder.offer(events(0, 5))
    source = threading.Thread(target=recorder.offer, args=(events(5, 5),))
    source.start()
    until(lambda: recorder._queue._changed._waiters)  # type: ignore[attr-defined]
    recorder.start(tmp_path / "b.h5")
    source.join(60)
    released.set()
    recorder.offer(events(10, 5))
    recorder.close()
    assert identities(tmp_path / "b.h5") == list(range(10, 15))
    assert recorder.lost == {"events not written": 5, "events queue full": 5}


def test_each_third_row_over_the_edges_of_row_groups(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    recorder.every = 3
    recorder.start(tmp_path / "a.h5")
    for first, count in ((0, 4), (4, 1), (5, 9), (14, 0), (14, 2)):
        recorder.offer(events(first, count))
    recorder.stop()
    assert identities(tmp_path / "a.h5") == list(range(0, 16, 3))


def test_each_third_row_is_counted_anew_in_each_acquisition_and_recording(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    recorder.every = 3
    recorder.start(tmp_path / "a.h5")
    recorder.offer(events(0, 5))
    recorder.end_acquisition(lambda: None)
    recorder.offer(events(5, 5))
    recorder.start(tmp_path / "b.h5")
    recorder.offer(events(10, 5))
    recorder.stop()
    assert identities(tmp_path / "a.h5") == [0, 3, 5, 8]
    assert identities(tmp_path / "b.h5") == [10, 13]


def test_rows_that_do_not_fit_are_refused_and_counted_and_the_others_kept(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    recorder.start(tmp_path / "a.h5")
    heights = np.array([1, 65_536, -1, 65_535, 70_000])
    recorder.offer(Rows(np.arange(5), {HEIGHT.path: heights}))
    recorder.offer(events(5, 2))
    recorder.stop()
    assert identities(tmp_path / "a.h5") == [0, 3, 5, 6]
    assert recorder.lost == {"events does not fit": 3}


def test_a_recording_of_a_number_of_rows_has_them_although_some_do_not_fit(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    recorder.start(tmp_path / "a.h5", count=3)
    recorder.offer(Rows(np.arange(3), {HEIGHT.path: np.array([1, 70_000, 2])}))
    recorder.offer(Rows(np.arange(3, 7), {HEIGHT.path: np.array([-1, 3, 4, 5])}))
    until(lambda: recorder.path is None)
    assert identities(tmp_path / "a.h5") == [0, 2, 4]
    assert recorder.lost == {"events does not fit": 2}


@pytest.mark.parametrize(
    "wrong",
    [
        Rows(np.array([5]), {HEIGHT.path: np.zeros((1, 2), np.int64)}),
        Rows(np.array([5]), {}),
        Rows(np.array([5]), {HEIGHT.path: np.array([1]), "/entry/other": np.array([1])}),
    ],
    ids=["shape", "column missing", "column unknown"],
)
def test_a_wrong_row_group_is_lost_alone(
    recorder: Recorder[Any, Any], tmp_path: Path, wrong: Rows
) -> None:
    recorder.start(tmp_path / "a.h5")
    with recorder._file_lock:  # the disk is slow: all are in one write
        for group in (events(0, 5), wrong, events(6, 5)):
            recorder.offer(group)
    recorder.stop()
    assert identities(tmp_path / "a.h5") == [*range(5), *range(6, 11)]
    assert recorder.lost == {"events not written": 1}


def test_the_column_that_a_value_does_not_fit_is_named(tmp_path: Path) -> None:
    recorder: Recorder[Any, Any] = Recorder(layout(), synchronous=True)
    recorder.start(tmp_path / "a.h5")
    with pytest.raises(RefusedError, match=rf"a\.h5: {HEIGHT.path}: a value .* uint16"):
        recorder.offer(Rows(np.arange(2), {HEIGHT.path: np.array([1, 70_000])}))
    recorder.close()
    assert identities(tmp_path / "a.h5") == [0]


def test_a_full_queue_counts_rows(tmp_path: Path) -> None:
    recorder: Recorder[Any, Any] = Recorder(layout(), queue_bytes=events(0, 100).nbytes)
    recorder.start(tmp_path / "a.h5")
    with recorder._file_lock:  # the disk is slow
        for number in range(5):
            recorder.offer(events(number * 100, 100))
    recorder.close()
    assert recorder.rows_readable + recorder.lost["events queue full"] == 500
    assert recorder.lost["events queue full"] in (200, 300, 400)


def test_a_row_group_larger_than_the_queue_is_recorded_though_a_callback_is_queued(
    tmp_path: Path,
) -> None:
    recorder: Recorder[Any, Any] = Recorder(layout(), queue_bytes=1)
    recorder.start(tmp_path / "a.h5")
    with recorder._file_lock:  # the disk is slow
        recorder.end_acquisition(lambda: None)
        recorder.end_acquisition(lambda: None)
        recorder.offer(events(0, 5))
    recorder.close()
    assert (recorder.rows_readable, recorder.lost) == (5, {})


def test_rows_that_are_written_leave_room_in_the_queue(tmp_path: Path) -> None:
    recorder: Recorder[Any, Any] = Recorder(layout(), queue_bytes=events(0, 5).nbytes)
    recorder.start(tmp_path / "a.h5")
    for first in range(0, 20, 5):
        recorder.offer(events(first, 5))
        written = threading.Event()
        recorder.call_when_visible(written.set)
        assert written.wait(90)
    recorder.close()
    assert (recorder.rows_readable, recorder.lost) == (20, {})


def test_rows_that_a_stop_drops_leave_room_and_the_callbacks_behind_them_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder: Recorder[Any, Any] = Recorder(layout(), queue_bytes=events(0, 5).nbytes)
    recorder.start(tmp_path / "a.h5")
    released, ended = threading.Event(), threading.Event()
    recorder.call_when_visible(lambda: until(released.is_set))  # holds up the thread
    recorder.offer(events(0, 5))
    recorder.end_acquisition(ended.set)
    with monkeypatch.context() as patch:
        patch.setattr(recorder_module, "STOP_LIMIT_S", 0.05)
        recorder.stop()
    assert recorder.error == "5 rows were not written within 0.05 s"
    assert not ended.is_set()
    released.set()
    assert ended.wait(90)
    recorder.start(tmp_path / "b.h5")
    recorder.offer(events(5, 5))
    recorder.close()
    assert identities(tmp_path / "b.h5") == list(range(5, 10))
    assert recorder.lost == {"events not written": 5}


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_result_that_the_layout_cannot_handle_is_a_loss_and_is_logged_once(
    tmp_path: Path, synchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Strict(ColumnsLayout):
        def row_group(self, result: Any) -> Rows | None:
            return super().row_group(result["rows"])

    recorder: Recorder[Any, Any] = Recorder(
        Strict("events", (HEIGHT,), IDENTITY), synchronous=synchronous
    )
    recorder.start(tmp_path / "a.h5")
    for _ in range(3):
        if synchronous:
            with pytest.raises(RefusedError, match="rows"):
                recorder.offer({})
        else:
            recorder.offer({})
    recorder.offer({"rows": events(0, 2)})
    recorder.close()
    assert identities(tmp_path / "a.h5") == [0, 1]
    assert recorder.lost == {"events not written": 3}
    assert len(caplog.records) == 1


def test_a_path_that_an_index_cannot_hold_is_a_loss_of_its_records(tmp_path: Path) -> None:
    recorder: Recorder[Any, Any] = Recorder(IndexLayout())
    recorder.start(tmp_path / "a.h5")
    numbers = np.arange(3)
    for name in ("x" * 2000, "b"):
        columns = {OFFSET: 10 * numbers, SIZE: np.full(3, 10)}
        recorder.offer(Records(numbers, columns, tmp_path / name))
    recorder.stop()
    assert recorder.error == ""
    recorder.close()
    assert (recorder.rows_readable, recorder.lost) == (3, {"index not written": 3})


class FaultyFile:
    """A file whose `flush` fails a number of times; counts its rows."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.rows = 0
        self.closed = False

    def append(self, rows: int) -> None:
        self.rows += rows

    @property
    def appended(self) -> int:
        return self.rows

    def flush(self) -> int:
        if self.failures:
            self.failures -= 1
            raise OSError("disk full")
        return self.rows

    def close(self) -> None:
        self.closed = True
        self.flush()


class FaultyLayout(ColumnsLayout):
    file: FaultyFile

    def open(self, path: Path, groups: Sequence[Rows], must_create: bool) -> Any:
        return self.file

    def append(self, file: Any, groups: Sequence[Rows]) -> Mapping[str, int]:
        file.append(sum(map(len, groups)))
        return {}


@pytest.fixture
def faulty() -> Iterator[Recorder[Any, Any]]:
    recorder: Recorder[Any, Any] = Recorder(FaultyLayout("events", (HEIGHT,), IDENTITY))
    yield recorder
    recorder.close()


def test_a_flush_that_fails_once_is_tried_again(faulty: Recorder[Any, Any], tmp_path: Path) -> None:
    file = faulty.layout.file = FaultyFile(1)  # type: ignore[attr-defined]
    faulty.start(tmp_path / "a.h5")
    faulty.offer(events(0, 5))
    until(lambda: faulty.rows_readable == 5)
    assert file.failures == 0
    until(lambda: not faulty.error)
    faulty.stop()
    assert (faulty.lost, file.closed) == ({}, True)


def test_a_close_that_flushes_ends_the_message_of_a_flush_that_failed(
    faulty: Recorder[Any, Any], tmp_path: Path
) -> None:
    file = faulty.layout.file = FaultyFile(2)  # type: ignore[attr-defined]
    faulty.start(tmp_path / "a.h5")
    faulty.offer(events(0, 5))
    faulty.stop()  # two flushes, and that of the close
    assert file.failures == 0
    assert (faulty.rows_readable, faulty.lost, faulty.error) == (5, {}, "")


def test_a_flush_that_succeeds_leaves_the_error_of_a_write(
    faulty: Recorder[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any) -> Any:
        raise OSError("disk full")

    file = faulty.layout.file = FaultyFile(1)  # type: ignore[attr-defined]
    faulty.start(tmp_path / "a.h5")
    with faulty._file_lock:
        faulty._write([events(0, 5)])
        faulty._flush(caller_waits=False)  # fails
        assert faulty.lost == {}  # nobody waits for them: the next attempt comes soon
        monkeypatch.setattr(file, "append", full)
        faulty._write([events(5, 5)])
        faulty._flush(caller_waits=False)
        assert (faulty.rows_readable, faulty.error) == (5, "disk full")
        assert faulty.lost == {"events not written": 5}


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_write_that_hangs_is_an_error_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: bool
) -> None:
    answers = threading.Event()

    class HangingLayout(ColumnsLayout):
        def append(self, file: ColumnWriter, groups: Sequence[Rows]) -> Mapping[str, int]:
            assert answers.wait(90)
            return super().append(file, groups)

    monkeypatch.setattr(recorder_module, "HANG_S", 0.01)
    hanging = HangingLayout("events", (HEIGHT,), IDENTITY)
    recorder: Recorder[Any, Any] = Recorder(hanging, synchronous=synchronous)
    recorder.start(tmp_path / "a.h5")
    source = threading.Thread(target=recorder.offer, args=(events(0, 5),))
    source.start()
    until(lambda: "events: no answer from the disk" in recorder.error)
    answers.set()
    source.join(90)
    recorder.close()
    assert (recorder.error, recorder.rows_readable, recorder.lost) == ("", 5, {})


def test_a_callback_that_fails_does_not_end_the_recorder(
    faulty: Recorder[Any, Any], tmp_path: Path
) -> None:
    def fail() -> None:
        raise KeyError("a callback")

    faulty.layout.file = FaultyFile(0)  # type: ignore[attr-defined]
    faulty.start(tmp_path / "a.h5")
    faulty.offer(events(0, 5))
    faulty.call_when_visible(fail)
    done = threading.Event()
    faulty.call_when_visible(done.set)
    assert done.wait(90)


def test_a_recording_that_another_thread_starts_during_a_start_is_closed(
    faulty: Recorder[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = faulty.layout.file = FaultyFile(0)  # type: ignore[attr-defined]
    stop = faulty.stop

    def stop_and_start() -> None:
        monkeypatch.setattr(faulty, "stop", stop)
        stop()
        faulty.start(tmp_path / "other.h5")
        faulty.offer(events(0, 5))
        until(lambda: faulty.rows_readable == 5)

    monkeypatch.setattr(faulty, "stop", stop_and_start)
    faulty.start(tmp_path / "a.h5")
    assert file.closed


def test_rows_that_were_never_flushed_are_lost_and_the_file_is_closed(
    faulty: Recorder[Any, Any], tmp_path: Path
) -> None:
    file = faulty.layout.file = FaultyFile(10**9)  # type: ignore[attr-defined]
    faulty.start(tmp_path / "a.h5")
    faulty.offer(events(0, 5))
    faulty.stop()
    assert file.closed
    assert faulty.lost == {"events not written": 5}
    assert faulty.error == "disk full"


def test_rows_of_an_acquisition_count_as_lost_until_they_are_visible(
    faulty: Recorder[Any, Any], tmp_path: Path
) -> None:
    file = faulty.layout.file = FaultyFile(10**9)  # type: ignore[attr-defined]
    faulty.start(tmp_path / "a.h5")
    faulty.offer(events(0, 5))
    done = threading.Event()
    faulty.call_when_visible(done.set)
    assert done.wait(90)
    assert faulty.lost == {"events not written": 5}
    file.failures = 0
    until(lambda: faulty.rows_readable == 5)
    until(lambda: not faulty.lost)


def test_a_file_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    columns = (HEIGHT, Column("/entry/height/below", "<f8"))  # below a dataset
    for _ in range(2):
        with pytest.raises(DataError, match=r"a\.h5.*below"):
            ColumnWriter(tmp_path / "a.h5", columns, IDENTITY)
        assert list(tmp_path.iterdir()) == []


def test_a_recorder_with_a_queue_timeout_waits_for_the_disk_and_loses_nothing(
    tmp_path: Path,
) -> None:
    recorder: Recorder[Any, Any] = Recorder(
        layout(), queue_bytes=events(0, 100).nbytes, queue_timeout_s=60.0
    )
    recorder.start(tmp_path / "a.h5")
    offered = threading.Event()

    def offer() -> None:
        for number in range(5):
            recorder.offer(events(number * 100, 100))
        offered.set()

    with recorder._file_lock:  # the disk is slow
        source = threading.Thread(target=offer)
        source.start()
        assert not offered.wait(0.2)
    source.join(90)
    recorder.close()
    assert not recorder.lost
    assert identities(tmp_path / "a.h5") == list(range(500))


def test_a_disk_that_fills_up_between_records_loses_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records of a batch that are in the index are not counted as lost too."""
    recorder: Recorder[Any, Any] = Recorder(IndexLayout())
    append, calls = IndexWriter.append, [0]

    def full_once(self: IndexWriter, *values: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError("disk full")
        append(self, *values)

    monkeypatch.setattr(IndexWriter, "append", full_once)
    recorder.start(tmp_path / "a.h5")
    for first in range(0, 20, 5):
        numbers = np.arange(first, first + 5)
        columns = {OFFSET: numbers, SIZE: np.ones(5, int)}
        recorder.offer(Records(numbers, columns, tmp_path / "a.raw"))
    recorder.stop()
    rows = recorder.rows_readable
    recorder.close()
    assert recorder.lost == {"index not written": 5}
    assert rows == 15


@pytest.mark.parametrize("synchronous", [False, True])
def test_the_first_row_is_flushed_in_time_though_the_thread_was_idle_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: bool
) -> None:
    monkeypatch.setattr(recorder_module, "IDLE_S", 3600.0)
    recorder: Recorder[Any, Any] = Recorder(layout(), synchronous=synchronous)

    def open_early(path: Path) -> None:  # `start` calls it before it sets `path`
        until(lambda: recorder._queue._changed._waiters)  # type: ignore[attr-defined]

    monkeypatch.setattr(recorder.layout, "open_early", open_early)
    recorder.start(tmp_path / "a.h5")
    recorder.offer(events(0, 5))
    until(lambda: recorder.rows_readable == 5, 20)
    recorder.close()


def test_a_synchronous_recorder_makes_rows_visible_though_its_thread_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source without a pause can keep the file from the thread."""
    recorder: Recorder[Any, Any] = Recorder(layout(), synchronous=True)
    monkeypatch.setattr(recorder, "_pause_s", lambda: 3600.0)
    recorder.start(tmp_path / "a.h5")
    numbers = itertools.count()

    def offer() -> bool:
        recorder.offer(events(next(numbers), 1))
        return recorder.rows_readable > 0

    until(offer)
    recorder.close()


@pytest.mark.parametrize("error", [None, OSError("disk full")])
def test_rows_for_which_no_file_could_be_created_are_not_in_the_next_recording(
    recorder: Recorder[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError | None,
) -> None:
    def create(*_: Any) -> None:
        if error is not None:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(recorder.layout, "open", create)
        recorder.start(tmp_path / "a.h5")
        recorder.offer(events(0, 5))
        recorder.stop()
    assert recorder.lost == {"events not written": 5}
    recorder.start(tmp_path / "b.h5")
    recorder.offer(events(5, 5))
    recorder.stop()
    assert identities(tmp_path / "b.h5") == list(range(5, 10))


def test_rows_that_wait_for_their_file_are_in_it_when_a_caller_waits_and_after_a_late_stop(
    recorder: Recorder[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = recorder.layout.open

    def open_at_the_end(path: Path, groups: Sequence[Rows], must_create: bool) -> Any:
        return create(path, groups, must_create) if must_create else None

    monkeypatch.setattr(recorder.layout, "open", open_at_the_end)
    monkeypatch.setattr(recorder_module, "STOP_LIMIT_S", 0.05)
    recorder.start(tmp_path / "a.h5")
    recorder.offer(events(0, 5))
    until(lambda: recorder._before_open)
    with recorder._file_lock:  # the thread waits for it, and the stop does not wait for the thread
        recorder.stop()
    recorder.start(tmp_path / "b.h5")
    recorder.offer(events(5, 5))
    until(lambda: recorder._before_open)
    visible = threading.Event()
    recorder.call_when_visible(visible.set)
    assert visible.wait(90)
    for name, first in (("a.h5", 0), ("b.h5", 5)):
        assert identities(tmp_path / name) == list(range(first, first + 5))
    assert recorder.lost == {}


def test_a_callback_after_the_close_is_called() -> None:
    recorder: Recorder[Any, Any] = Recorder(layout())
    recorder.close()
    visible, done = threading.Event(), threading.Event()
    recorder.call_when_visible(visible.set)
    recorder.end_acquisition(done.set)
    assert visible.is_set()
    assert done.is_set()


def test_a_recorder_that_is_closed_refuses_to_start(tmp_path: Path) -> None:
    recorder: Recorder[Any, Any] = Recorder(layout())
    recorder.close()
    assert "the recorder is closed" in recorder.start(tmp_path / "a.h5")
    assert recorder.path is None


def test_callbacks_in_the_queue_at_the_close_are_called(recorder: Recorder[Any, Any]) -> None:
    called: list[int] = []

    def close_meanwhile() -> None:  # the rest of the queue waits for this callback
        for number in range(3):
            recorder.end_acquisition(partial(called.append, number))
        recorder._queue._closing = True

    recorder.call_when_visible(close_meanwhile)
    recorder._thread.join(90)
    assert not recorder._thread.is_alive()
    assert called == [0, 1, 2]


def test_rows_that_are_dropped_while_more_are_awaited_do_not_end_the_recorder(
    recorder: Recorder[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_queue_module, "GATHER_S", 60.0)
    gathers, found_empty = threading.Event(), threading.Event()
    queue = recorder._queue
    should_write_now = queue._should_write_now

    def check() -> bool:
        gathers.set()
        if not queue._entries:
            found_empty.set()
        return should_write_now()

    monkeypatch.setattr(queue, "_should_write_now", check)
    recorder.start(tmp_path / "a.h5")
    gathers.clear()
    recorder.offer(events(0, 5))
    assert gathers.wait(60)
    assert [len(group) for group in queue.drop_rows()] == [5]  # as `stop` does after its timeout
    assert found_empty.wait(30)
    visible = threading.Event()
    recorder.call_when_visible(visible.set)
    assert visible.wait(60)

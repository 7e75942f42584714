"""A derived run, whatever becomes of its disk."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.derived import Derived

from skywright.analysis import Batch
from skywright.analysis.framework import IdentityOrder
from skywright.analysis.picture_statistics import PictureStatistics
from skywright.callbacks.derived import DerivedRun
from skywright.files.hdf5_flags import read_superblock


@pytest.fixture
def docs() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def derived(tmp_path: Path, docs: list[tuple[str, Any]]) -> DerivedRun:
    raw = {"uid": "raw", "scan_id": 7, "sample": "x", "plan_name": "count", "proposal": 3}
    run = DerivedRun(PictureStatistics(), raw, lambda *each: docs.append(each), tmp_path)
    numbers = np.arange(3)
    pictures = np.full((3, 4, 5), 9, np.uint8)
    run.add(Batch(numbers, numbers * 1.0, {"image": pictures}))
    return run


def test_takes_over_what_the_sample_is_and_not_what_the_plan_was(
    derived: DerivedRun, docs: list[tuple[str, Any]]
) -> None:
    start = docs[0][1]
    assert (start["sample"], start["proposal"], start["raw_scan_id"]) == ("x", 3, 7)
    assert "plan_name" not in start
    derived.close()


def test_a_second_close_does_nothing(derived: DerivedRun, docs: list[tuple[str, Any]]) -> None:
    derived.close("fail", "the first reason")
    derived.close()
    stops = Derived(docs).of("stop")
    assert [stop["reason"] for stop in stops] == ["the first reason"]
    derived_rows = np.frombuffer(Derived(docs).columns()["identity"], "<i8")
    assert derived_rows.tolist() == [0, 1, 2]  # what was measured before the failure is kept


@pytest.mark.parametrize("keeps_result", [False, True])
def test_a_run_that_fails_ends_without_a_new_result_unless_it_is_kept(
    derived: DerivedRun, docs: list[tuple[str, Any]], keeps_result: bool
) -> None:
    before = len(Derived(docs).of("event"))
    derived.close("fail", "why", keeps_result=keeps_result)
    assert len(Derived(docs).of("event")) == before + keeps_result
    files = list(derived.directory.glob("*.h5"))
    superblocks = [superblock for file in files if (superblock := read_superblock(file))]
    assert [superblock.flags for superblock in superblocks] == [0, 0]  # both files are closed


def test_frames_of_the_block_below_the_highest_count_and_earlier_ones_are_late(
    tmp_path: Path, docs: list[tuple[str, Any]]
) -> None:
    run = DerivedRun(PictureStatistics(), {"uid": "raw"}, lambda *e: docs.append(e), tmp_path)
    size = PictureStatistics.block_size

    def add(*numbers: int) -> None:
        pictures = np.full((len(numbers), 4, 5), 9, np.uint8)
        run.add(Batch(np.array(numbers), np.zeros(len(numbers)), {"image": pictures}))

    add(size, size + 1)
    add(0)
    for block in range(2, 9):
        add(block * size)
    add(size - 1)
    assert len(run.analysis._keys()) <= 2  # the memory of a long run does not grow
    run.close()
    result = Derived(docs).result
    assert (result["n_frames"], result["n_late"]) == (10, 1)


@pytest.mark.parametrize("wild", [[], [10**15], [-(10**15)], [-(2**63)]])
def test_frames_after_a_restart_of_their_sender_or_a_wild_number_count(
    tmp_path: Path, docs: list[tuple[str, Any]], wild: list[int]
) -> None:
    run = DerivedRun(PictureStatistics(), {"uid": "raw"}, lambda *e: docs.append(e), tmp_path)
    for numbers in ([5000, 5001], wild, [5002], range(3), [3]):
        identities = np.array(numbers, np.int64)
        pictures = np.full((len(identities), 4, 5), 9, np.uint8)
        run.add(Batch(identities, np.zeros(len(identities)), {"image": pictures}))
    run.close()
    result = Derived(docs).result
    assert (result["n_frames"], result["n_late"]) == (7 + len(wild), 0)
    rows = np.frombuffer(Derived(docs).columns()["identity"], "<i8")
    assert rows.tolist() == [5000, 5001, *wild, 5002, 0, 1, 2, 3]


def test_the_place_of_any_number_fits_int64() -> None:
    order = IdentityOrder(100)
    places = order.place(np.array([5000, -(2**63), 5001], np.int64), None)
    assert sorted(places.tolist()) == places.tolist()
    assert places.max() < 10_000


def test_what_cannot_be_kept_at_the_end_is_no_success(
    derived: DerivedRun, docs: list[tuple[str, Any]]
) -> None:
    with pytest.raises(FileNotFoundError):
        derived.close(pictures={"no/such/directory.png": b"x"})
    stop = Derived(docs).stop
    assert stop is not None
    assert stop["exit_status"] == "fail"
    assert "FileNotFoundError" in stop["reason"]


@pytest.mark.parametrize("name", ["_columns", "_arrays"])
def test_a_file_that_cannot_be_closed_is_no_success(
    derived: DerivedRun, docs: list[tuple[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = getattr(derived, name)
    close = file.close

    def full() -> None:
        close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file, "close", full)
    with pytest.raises(OSError, match="No space"):
        derived.close()
    [stop] = Derived(docs).of("stop")
    assert stop["exit_status"] == "fail"
    assert "No space" in stop["reason"]


def test_the_first_error_is_the_reason(
    derived: DerivedRun, docs: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    close = derived._columns.close

    def full() -> None:
        close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(derived._columns, "close", full)
    with pytest.raises(OSError, match="No space"):
        derived.fail(ValueError("column x is missing"))
    [stop] = Derived(docs).of("stop")
    assert "column x is missing" in stop["reason"]


def test_a_run_without_frames_has_a_result_that_says_so(
    tmp_path: Path, docs: list[tuple[str, Any]]
) -> None:
    run = DerivedRun(PictureStatistics(), {"uid": "raw"}, lambda *e: docs.append(e), tmp_path)
    run.close()
    result = Derived(docs).result
    assert (result["n_frames"], result["last_identity"], result["update_number"]) == (0, -1, 0)
    assert Derived(docs).rows("histogram").tolist() == [[0] * 256]
    assert np.isnan(result["mean_level"])
    assert Derived(docs).start["raw_scan_id"] == -1


def test_rows_are_in_the_file_before_the_event_that_counts_them(tmp_path: Path) -> None:
    in_file: list[int] = []

    def emit(name: str, doc: Any) -> None:
        if name == "event":
            in_file.append(run._columns.flushed - doc["data"]["n_frames"])

    run = DerivedRun(PictureStatistics(), {"uid": "raw"}, emit, tmp_path)
    run.add(Batch(np.arange(3), np.zeros(3), {"image": np.full((3, 4, 5), 9, np.uint8)}))
    run.close()
    assert in_file == [0, 0]


class Slow(PictureStatistics):
    """Array results in rows 5 s apart, scalars in events 2 s apart."""

    scalar_period_s, array_period_s = 2.0, 5.0


def test_scalars_and_arrays_have_their_own_periods(
    tmp_path: Path, docs: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("skywright.callbacks.derived.time.monotonic", lambda: now)
    run = DerivedRun(Slow(), {"uid": "raw"}, lambda *e: docs.append(e), tmp_path)
    for second in range(9):
        now = 100.0 + second
        run.add(Batch(np.array([second]), np.zeros(1), {"image": np.full((1, 4, 5), 9, np.uint8)}))
    events = [doc["data"] for doc in Derived(docs).of("event")]
    # At 0 s, 2 s ... the scalars; at 5 s the second row of arrays, which takes an event with it.
    assert [event["n_frames"] for event in events] == [1, 3, 5, 6, 8]
    assert [event["update_number"] for event in events] == [0, 0, 0, 1, 1]
    assert run.tick() == pytest.approx(1.0)  # the next event is due at 9 s
    run.close()
    assert Derived(docs).result["update_number"] == 2
    assert Derived(docs).rows("update_number").tolist() == [0, 1, 2]
    assert Derived(docs).rows("histogram")[:, 9].tolist() == [20, 6 * 20, 9 * 20]
    for datum in Derived(docs).of("stream_datum"):
        numbers = {edge: index + 1 for edge, index in datum["indices"].items()}
        assert datum["seq_nums"] == numbers


def test_an_analysis_without_arrays_has_no_stream_of_them(
    tmp_path: Path, docs: list[tuple[str, Any]]
) -> None:
    class Scalars(PictureStatistics):
        results = tuple(c for c in PictureStatistics.results if not c.shape)

        def summarize(self, state: Any) -> Any:
            found = super().summarize(state)
            return {name: found[name] for name in found if not np.ndim(found[name])}

    run = DerivedRun(Scalars(), {"uid": "raw"}, lambda *e: docs.append(e), tmp_path)
    run.add(Batch(np.arange(1), np.zeros(1), {"image": np.full((1, 4, 5), 9, np.uint8)}))
    run.close()
    names = [doc["name"] for doc in Derived(docs).of("descriptor")]
    assert names == [PictureStatistics.stream, "result"]
    assert Derived(docs).result["update_number"] == -1

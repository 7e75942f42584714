"""Column files: what is visible is whole, whatever happens to the writer."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.errors import DataError
from skywright.files import columns as records
from skywright.files.columns import (
    Column,
    ColumnReader,
    ColumnWriter,
    DoesNotFitError,
)

IMAGE = Column("/entry/data/data", "|u1", (3, 4), 1, {"units": "counts"})
TIME = Column("/entry/time", "<f8", rows_per_chunk=16, attrs={"names": ["a", "b"]})
IDENTITY = Column("/entry/id", "<i8", rows_per_chunk=16)


def rows(identities: np.ndarray) -> dict[str, np.ndarray]:
    """Values that follow from the identity, so that a torn record shows."""
    return {
        IMAGE.path: np.broadcast_to((identities % 251)[:, None, None], (len(identities), 3, 4)),
        TIME.path: identities * 0.5,
    }


def assert_whole(reader: ColumnReader, count: int) -> None:
    identities = reader.read(IDENTITY.path, 0, count)
    assert len(identities) == count
    for path, values in rows(identities).items():
        np.testing.assert_array_equal(reader.read(path, 0, count), values)


def test_a_writer_keeps_no_full_chunks(tmp_path: Path) -> None:
    many = Column("/entry/many", "<f8", (64, 64), rows_per_chunk=1024)
    with ColumnWriter(tmp_path / "a.h5", [IMAGE, TIME, many], IDENTITY) as writer:
        plists = {path: data.id.get_access_plist() for path, data in writer._data.items()}
    caches = {path: plist.get_chunk_cache()[1] for path, plist in plists.items()}
    assert caches == {IMAGE.path: 1, TIME.path: 16 * 8, many.path: records.CACHE_BYTES}


def test_values_and_attributes_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with ColumnWriter(
        path,
        [IMAGE, TIME],
        IDENTITY,
        groups={"/entry": {"NX_class": "NXentry"}},
        links={"/entry/same": IMAGE.path},
    ) as writer:
        writer.append(7, {IMAGE.path: np.full((3, 4), 9), TIME.path: 1.25})
        writer.append(np.array([8, 9]), rows(np.array([8, 9])))
    with ColumnReader(path, IDENTITY.path) as reader:
        assert reader.count() == 3
        assert reader.read(IDENTITY.path).tolist() == [7, 8, 9]
        assert reader.read(TIME.path, 1).tolist() == [4.0, 4.5]
        assert reader.read(IMAGE.path, 0, 1).dtype == np.uint8
        assert reader.attributes(TIME.path) == {"names": ["a", "b"]}
        assert reader.attributes(IMAGE.path) == {"units": "counts"}
    with h5py.File(path) as file:
        assert file["/entry"].attrs["NX_class"] == b"NXentry"
        assert file["/entry/same"].shape == (3, 3, 4)
        assert file[IMAGE.path].chunks == (1, 3, 4)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.one_of(st.integers(1, 40), st.just(0)), max_size=12))
def test_only_flushed_records_are_visible(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    path = tmp_path_factory.mktemp("records") / "a.h5"
    appended = flushed = 0
    with (
        ColumnWriter(path, [IMAGE, TIME], IDENTITY) as writer,
        ColumnReader(path, IDENTITY.path) as reader,
    ):
        for step in steps:  # 0 is a flush
            if step:
                identities = np.arange(appended, appended + step)
                writer.append(identities, rows(identities))
                appended += step
            else:
                flushed = writer.flush()
                assert flushed == appended
            assert (writer.appended, writer.flushed) == (appended, flushed)
            assert reader.count() == flushed
            assert_whole(reader, flushed)
    with ColumnReader(path, IDENTITY.path) as reader:
        assert reader.count() == appended


def test_records_that_do_not_fit_are_refused_whole(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path / "a.h5", [IMAGE, TIME], IDENTITY)
    with pytest.raises(DataError, match=r"/entry/data/data: values of shape \(1, 3, 5\), expected"):
        writer.append(0, {IMAGE.path: np.zeros((3, 5)), TIME.path: 0.0})
    with pytest.raises(DataError, match="/entry/time"):
        writer.append(0, {IMAGE.path: np.zeros((3, 4))})
    with pytest.raises(DataError, match=r"/entry/id: values of shape \(1, 1\), expected \(n,\)"):
        writer.append([[0]], rows(np.array([0])))
    assert writer.flush() == 0
    writer.append(0, {IMAGE.path: np.zeros((3, 4)), TIME.path: 0.0})
    assert writer.flush() == 1
    writer.close()
    writer.close()


def test_a_reader_of_the_same_process_sees_no_row_before_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    resize = h5py.Dataset.resize
    found: list[Future[Any]] = []

    def resize_while_another_thread_reads(dataset: h5py.Dataset, *args: Any, **kw: Any) -> None:
        resize(dataset, *args, **kw)
        found.append(pool.submit(reader.read, IDENTITY.path))
        wait(found, 0.2)  # the reader waits until the identities are written

    with (
        ThreadPoolExecutor(1) as pool,
        ColumnWriter(path, [IMAGE, TIME], IDENTITY) as writer,
        ColumnReader(path, IDENTITY.path) as reader,
    ):
        identities = np.arange(1, 4)
        writer.append(identities, rows(identities))
        # A thread that starts may free objects of h5py, and then waits for the lock of `flush`
        pool.submit(int).result()
        with monkeypatch.context() as patch:
            patch.setattr(h5py.Dataset, "resize", resize_while_another_thread_reads)
            writer.flush()
        assert [each.result(90).tolist() for each in found] == [[1, 2, 3]]


def test_the_caller_may_use_its_arrays_again_before_the_flush(tmp_path: Path) -> None:
    identities = np.arange(3)
    values = rows(identities)
    with ColumnWriter(tmp_path / "a.h5", [IMAGE, TIME], IDENTITY) as writer:
        writer.append(identities, values)
        identities += 100
        values[TIME.path] += 100.0
    with ColumnReader(tmp_path / "a.h5", IDENTITY.path) as reader:
        assert_whole(reader, 3)
        assert reader.read(IDENTITY.path).tolist() == [0, 1, 2]


def test_a_file_is_never_reused(tmp_path: Path) -> None:
    ColumnWriter(tmp_path / "a.h5", [TIME], IDENTITY).close()
    with pytest.raises(DataError, match="exists already"):
        ColumnWriter(tmp_path / "a.h5", [TIME], IDENTITY)
    with pytest.raises(DataError, match="two columns have one path"):
        ColumnWriter(tmp_path / "b.h5", [TIME, TIME], IDENTITY)


def test_reader_names_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(DataError, match=r"text\.h5: cannot be read as HDF5"):
        ColumnReader(tmp_path / "text.h5", IDENTITY.path)
    with pytest.raises(DataError, match=r"b\.h5: cannot be read as HDF5 \(No such file .*\)$"):
        ColumnReader(tmp_path / "b.h5", IDENTITY.path)
    ColumnWriter(tmp_path / "a.h5", [TIME], IDENTITY).close()
    with pytest.raises(DataError, match="has no dataset /entry/other"):
        ColumnReader(tmp_path / "a.h5", "/entry/other")
    whole = (tmp_path / "a.h5").read_bytes()
    for number in range(1, whole.count(b"OHDR") + 1):  # each object header of HDF5 in turn
        pieces = whole.split(b"OHDR")
        damaged = tmp_path / f"damaged{number}.h5"
        damaged.write_bytes(b"OHDR".join(pieces[:number]) + b"XXXX" + b"OHDR".join(pieces[number:]))
        with suppress(DataError), ColumnReader(damaged, IDENTITY.path) as reader:
            reader.read(TIME.path)


def test_full_disk_is_told_before_hdf5_meets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    writer = ColumnWriter(path, [IMAGE, TIME], IDENTITY)
    writer.append(0, {IMAGE.path: np.zeros((3, 4)), TIME.path: 0.0})
    full = SimpleNamespace(free=40960)
    with monkeypatch.context() as patch:
        patch.setattr(records.shutil, "disk_usage", lambda _: full)
        with pytest.raises(OSError, match=r"disk full: 0\.0 MB free"):
            writer.append(1, {IMAGE.path: np.zeros((3, 4)), TIME.path: 0.0})
    assert writer.flush() == 1
    writer.append(2, {IMAGE.path: np.zeros((3, 4)), TIME.path: 1.0})
    writer.close()
    with ColumnReader(path, IDENTITY.path) as reader:
        assert reader.read(IDENTITY.path).tolist() == [0, 2]


def test_rows_need_the_room_of_the_chunks_that_they_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 writes a chunk as a whole, and a file takes no more rows after a write that failed."""
    wide = Column("/entry/wide", "<f8", (4000,), rows_per_chunk=64)
    row = {wide.path: np.zeros(4000)}
    little = SimpleNamespace(free=records.RESERVE_BYTES + 100_000)  # and a chunk has 2 MB
    writer = ColumnWriter(tmp_path / "a.h5", [wide], IDENTITY)
    for begins_chunk in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(records.shutil, "disk_usage", lambda _: little)
            with pytest.raises(OSError, match="disk full"):
                writer.append(64 * begins_chunk, row)
        writer.append(64 * begins_chunk, row)  # there is room again
        assert writer.flush() == 64 * begins_chunk + 1
        with monkeypatch.context() as patch:
            patch.setattr(records.shutil, "disk_usage", lambda _: little)
            writer.append(64 * begins_chunk + 1, row)
        rest = np.arange(62) + 64 * begins_chunk + 2
        writer.append(rest, {wide.path: np.zeros((62, 4000))})
    writer.close()


def test_a_disk_that_fails_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 has a RuntimeError for some of it."""

    def fail(*_: object) -> None:
        raise RuntimeError("Unable to flush dataset (file write failed)")

    path = tmp_path / "a.h5"
    writer = ColumnWriter(path, [IMAGE, TIME], IDENTITY)
    row = {IMAGE.path: np.zeros((3, 4)), TIME.path: 0.0}
    writer.append(0, row)
    writer.flush()
    writer.append(1, row)
    with monkeypatch.context() as patch:
        patch.setattr(h5py.Dataset, "flush", fail)
        with pytest.raises(OSError, match=r"a\.h5: Unable to flush"):
            writer.flush()
    for call in (writer.flush, lambda: writer.append(2, row), writer.close):
        with pytest.raises(OSError, match=r"takes no more rows after an error \(Unable to flush"):
            call()
    writer.close()
    with ColumnReader(path, IDENTITY.path) as reader:
        assert reader.read(IDENTITY.path).tolist() == [0]

    writer = ColumnWriter(tmp_path / "b.h5", [IMAGE, TIME], IDENTITY)
    with monkeypatch.context() as patch:
        patch.setattr(h5py.Dataset, "__setitem__", fail)
        with pytest.raises(OSError, match=r"b\.h5: Unable to flush"):
            writer.append(0, row)
    writer.close()

    writer = ColumnWriter(tmp_path / "c.h5", [IMAGE, TIME], IDENTITY)
    with monkeypatch.context() as patch:
        patch.setattr(h5py.File, "close", fail)
        with pytest.raises(OSError, match=r"c\.h5: Unable to flush"):
            writer.close()
    writer.close()


WRITER = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_records import IDENTITY, IMAGE, TIME, rows
from skywright.files.columns import ColumnWriter
from pathlib import Path
writer = ColumnWriter(Path(sys.argv[1]), [IMAGE, TIME], IDENTITY)
{limit}
n = 0
while True:
    some = np.arange(n, n + 1 + n % 7)
    writer.append(some, rows(some))
    n += len(some)
    if n % 3 == 0:
        print(writer.flush(), flush=True)
"""


def write_in_process(path: Path, limit: str = "") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER.format(limit=limit), str(path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_writer_leaves_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    process = write_in_process(path)
    assert process.stdout is not None
    seen = [int(process.stdout.readline())]
    with ColumnReader(path, IDENTITY.path) as reader:
        for line in process.stdout:  # reads while it writes, in another process
            count = reader.count()
            assert count >= seen[-1]
            assert_whole(reader, count)
            seen.append(int(line))
            if len(seen) == 40:
                os.kill(process.pid, signal.SIGKILL)
                break
        process.wait()
        # Newly opened and held open, both see all that was flushed.
        told = max([seen[-1], *(int(line) for line in process.stdout.read().split())])
        assert reader.count() >= told
        assert_whole(reader, reader.count())
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()
    with ColumnReader(path, IDENTITY.path) as reader:
        assert reader.count() >= told
        assert_whole(reader, reader.count())


def test_records_flushed_before_the_disk_failed_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    process = write_in_process(path, limit)
    out, error = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "OSError" in error
    told = int(out.split()[-1])
    assert told > 100
    with ColumnReader(path, IDENTITY.path) as reader:
        assert reader.count() >= told
        assert_whole(reader, reader.count())


WRITER_THAT_GOES_ON = """
import resource, sys
import numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_records import IDENTITY, IMAGE, TIME, rows
from skywright.files.columns import ColumnWriter
writer = ColumnWriter(Path(sys.argv[1]), [IMAGE, TIME], IDENTITY)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
n = errors = 0
while n < 3000:
    some = np.arange(n, n + 1 + n % 7)
    try:
        writer.append(some, rows(some))
        n += len(some)
        if n % 3 == 0:
            writer.flush()
    except OSError:
        errors += 1
        if errors > 20:
            break
        if errors > 4:  # there is room again
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
try:
    writer.close()
except OSError:
    pass
print(writer.flushed)
"""


@pytest.mark.parametrize("limit", [30_878, 46_871])
def test_no_row_is_wrong_after_the_disk_failed_and_is_well_again(
    limit: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    arguments = [path, Path(__file__).parent, limit]
    code = [sys.executable, "-c", WRITER_THAT_GOES_ON, *map(str, arguments)]
    flushed = int(subprocess.check_output(code, timeout=90))
    assert flushed > 100
    with ColumnReader(path, IDENTITY.path) as reader:
        assert reader.count() == flushed
        assert_whole(reader, flushed)


def test_lock_of_h5py_is_where_records_has_it_from() -> None:
    assert hasattr(h5py._objects, "phil"), "h5py has no _objects.phil: see skywright.files.columns"


def test_readers_side_by_side_each_read_their_records(tmp_path: Path) -> None:
    path, count = tmp_path / "a.h5", 40
    with ColumnWriter(path, [IMAGE, TIME], IDENTITY) as writer:
        writer.append(np.arange(count), rows(np.arange(count)))

    def look(first: int) -> None:
        for k in range(200):
            at = (first + k) % count
            with ColumnReader(path, IDENTITY.path) as reader:
                assert reader.count() == count
                assert reader.read(IDENTITY.path, at, at + 1) == [at]
                np.testing.assert_array_equal(
                    reader.read(IMAGE.path, at, at + 1), rows(np.array([at]))[IMAGE.path]
                )

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(look, first) for first in (0, 10, 20, 30)]:
            done.result()


@contextmanager
def another_reader(path: Path) -> Iterator[tuple[ColumnReader, h5py.Dataset]]:
    """Yield a reader of 20 records, and the images, which somebody else here has open."""
    with ColumnWriter(path, [IMAGE, TIME], IDENTITY) as writer:
        writer.append(np.arange(20), rows(np.arange(20)))
    with (
        h5py.File(path, "r", libver="latest", swmr=True, locking=False) as file,
        ColumnReader(path, IDENTITY.path) as reader,
    ):
        yield reader, file[IMAGE.path]


def test_reader_leaves_alone_what_somebody_else_has_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "OTHER_READER_TIMEOUT_S", 0.01)
    with another_reader(tmp_path / "a.h5") as (reader, theirs):
        assert_whole(reader, 20)
        np.testing.assert_array_equal(theirs[:], rows(np.arange(20))[IMAGE.path])


def test_reader_does_not_wait_for_another_column_that_somebody_has_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "OTHER_READER_TIMEOUT_S", 3600.0)
    with another_reader(tmp_path / "a.h5") as (reader, theirs):
        assert reader.count() == len(theirs)


def test_a_profiler_that_keeps_the_frames_of_a_read_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of Dask's workers, which looks at the stack of each thread."""
    monkeypatch.setattr(records, "OTHER_READER_TIMEOUT_S", 0.01)
    with ColumnWriter(tmp_path / "a.h5", [IMAGE, TIME], IDENTITY) as writer:
        writer.append(np.arange(20), rows(np.arange(20)))
    frames = []
    with ColumnReader(tmp_path / "a.h5", IDENTITY.path) as reader:
        sys.setprofile(lambda frame, event, argument: frames.append(frame))
        try:
            seen = reader.read(TIME.path)
        finally:
            sys.setprofile(None)
            frames.clear()
    np.testing.assert_array_equal(seen, 0.5 * np.arange(20))


def test_attributes_are_text_numbers_and_what_json_knows(tmp_path: Path) -> None:
    attributes = {
        "text": "counts", "list": [1, "a"], "text of a list": "[1]", "nothing": None,
        "text of nothing": "null", "quoted": '"a"', "brackets": "[a", "number": 3,
    }  # fmt: skip
    path = tmp_path / "a.h5"
    with ColumnWriter(path, [Column("/a", "<f8", attrs=attributes)], IDENTITY):
        pass
    with ColumnReader(path, IDENTITY.path) as reader:
        assert reader.attributes("/a") == attributes


def test_an_error_of_a_value_that_does_not_fit_reaches_another_process() -> None:
    error = pickle.loads(pickle.dumps(DoesNotFitError("why", np.array([True, False]))))
    assert (str(error), error.fits.tolist()) == ("why", [True, False])


@pytest.mark.parametrize(
    ("dtype", "good", "bad"),
    [
        ("S4", ["abcd", "", "ä€"[:1]], ["abcde", "€€"]),
        ("S4", [b"abcd"], [b"abcde"]),
        ("|u1", [0, 255], [256, -1]),
        ("?", [0, 1.0, True], [2, -1, np.nan]),
        ("<f8", [1 + 0j], [1 + 2j]),
        ("<f4", [1 + 0j, complex("inf")], [1 + 2j, 1e300 + 0j]),
        ("<i4", [2**31 - 1, -(2**31)], [2**31, -(2**31) - 1]),
        ("<i8", list(np.array([2**63 - 1], np.uint64)), list(np.array([2**63], np.uint64))),
        ("<i8", [2**60 + 1, -(2**63)], [2**70, None]),
        ("<u4", [3.0, 2.0**32 - 1], [0.5, float("nan"), float("inf"), 2.0**32]),
        ("<f4", [0.5, float("inf"), -float("inf")], [1e300, -1e39]),
        ("<f4", [2.0**100], [2**200]),
        ("<f2", [1.0], [70_000.0]),
    ],
)
def test_values_that_do_not_fit_are_refused(
    dtype: str, good: list[object], bad: list[object], tmp_path: Path
) -> None:
    column = Column("/entry/value", dtype)
    with ColumnWriter(tmp_path / "a.h5", [column], IDENTITY) as writer:
        for values in ([*good, *bad], np.array([*good, *bad])):
            with pytest.raises(
                DoesNotFitError, match=f"value: .* does not fit .*{len(bad)} of"
            ) as e:
                writer.append(np.arange(len(good) + len(bad)), {column.path: values})
            assert e.value.fits.tolist() == [True] * len(good) + [False] * len(bad)
            assert writer.appended == 0
        for value in bad:
            with pytest.raises(DoesNotFitError):
                writer.append(1, {column.path: value})
        writer.append(np.arange(len(good)), {column.path: good})
        with pytest.raises(DoesNotFitError, match="/entry/id"):
            writer.append([2.5], {column.path: good[:1]})
    with ColumnReader(tmp_path / "a.h5", IDENTITY.path) as reader:
        kept = reader.read(column.path).tolist()
    assert [
        k.decode() if isinstance(k, bytes) and isinstance(g, str) else k
        for k, g in zip(kept, good, strict=True)
    ] == good


def test_values_of_another_kind_are_refused(tmp_path: Path) -> None:
    good = {"/text": "a", "/count": 5, "/value": 0.5, "/flag": True}
    dtypes = {"/text": "S4", "/count": "<i4", "/value": "<f8", "/flag": "?"}
    columns = [Column(path, dtype) for path, dtype in dtypes.items()]
    time = np.datetime64("2026-11-29T08:00:00", "ms")
    with ColumnWriter(tmp_path / "a.h5", columns, IDENTITY) as writer:
        wrong = {"/text": [5], "/count": ["5", b"5"], "/value": ["0.5", b"1", time], "/flag": ["1"]}
        for path, value in ((path, value) for path, values in wrong.items() for value in values):
            for given in (value, np.array(value, object)):
                with pytest.raises(DataError, match=rf"{path}: expected (text|numbers), got"):
                    writer.append(1, good | {path: given})
    with ColumnReader(tmp_path / "a.h5", IDENTITY.path) as reader:
        assert reader.count() == 0


def test_an_integer_among_text_is_refused(tmp_path: Path) -> None:
    column = Column("/entry/text", "S8")
    with ColumnWriter(tmp_path / "a.h5", [column], IDENTITY) as writer:
        with pytest.raises(DataError, match="expected text, got int"):
            writer.append(np.arange(2), {column.path: np.array(["ab", 5], object)})
        writer.append(np.arange(2), {column.path: np.array(["ab", b"cd"], object)})
        assert writer.flush() == 2


def test_rows_that_do_not_fit_are_counted_for_each_column(tmp_path: Path) -> None:
    columns = [Column(f"/{name}", "<i2") for name in "abcde"]
    rows = {f"/{name}": np.zeros(3, np.int64) for name in "abcde"}
    rows["/a"][:2] = rows["/b"][2] = rows["/d"][0] = rows["/e"][:] = 100_000
    with (
        ColumnWriter(tmp_path / "rows.h5", columns, Column("/id", "<i8")) as writer,
        pytest.raises(DoesNotFitError) as caught,
    ):
        writer.append(np.arange(3), rows)
    message = str(caught.value)
    assert "/a: a value that is no integer of its range does not fit int16 (2 of 3 rows)" in message
    assert "/b: a value that is no integer of its range does not fit int16 (1 of 3 rows)" in message
    assert message.endswith("(1 of 3 rows); and 1 more")
    assert not caught.value.fits.any()

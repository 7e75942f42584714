"""Files that are cut short or damaged are errors: no wrong rows, no reader that never returns."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest

from skywright.errors import DataError
from skywright.files.areadetector import IMAGE, UNIQUE_ID, ImageWriter
from skywright.files.columns import Column, ColumnReader, ColumnWriter
from skywright.files.hdf5 import _attempts_setter, check_rows, is_cut_short, open_hdf5, read_rows
from skywright.files.readers import HDF5, open_reader
from skywright.store.file_nodes import VIRTUAL_DATASET, write_virtual_file
from skywright.store.journal_contents import ResourceRows
from skywright.store.repair import rows_on_disk
from skywright.store.table_adapter import ColumnsAdapter, table_structure

READ_IMAGES = """
import sys
from pathlib import Path
from skywright.files.areadetector import IMAGE, UNIQUE_ID
from skywright.files.readers import HDF5, open_reader

with open_reader(HDF5, Path(sys.argv[1]), UNIQUE_ID) as reader:
    print(reader.read(IMAGE).any(axis=(1, 2)).sum())
"""

FILL_UP = """
import resource, sys
from pathlib import Path
import numpy as np
from skywright.files.columns import Column, ColumnReader, ColumnWriter

identity, height = Column("/id", "<i8"), Column("/h", "<f8")
image = Column("/i", "<u2", (64, 64), 1)
columns = (height, image) if sys.argv[2] == "images" else (height,)
directory, limit, flush_every = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])


def rows(count):
    return {each.path: np.ones((count, *each.shape), each.dtype) for each in columns}


# As a quota: writes beyond fail.
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    ColumnWriter(directory / "a.h5", columns, identity)
except OSError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer = ColumnWriter(directory / "a.h5", columns, identity)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    for number in range(100_000):
        writer.append(np.arange(20) + 20 * number, rows(20))
        if number % flush_every == flush_every - 1:
            writer.flush()
except OSError:
    flushed = writer.flushed
try:
    writer.close()
except OSError:
    pass
writer.close()
assert writer.flushed == flushed
del writer
if sys.argv[5] == "goes on":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    other = ColumnWriter(directory / "b.h5", columns, identity)
    other.append(np.arange(20), rows(20))
    other.close()
    with ColumnReader(directory / "b.h5", "/id") as reader:
        assert reader.count() == 20
print(flushed)
"""


def images(path: Path, count: int, *, closed: bool) -> bytes:
    """Write images without a zero and return the file, as it is before or after it is closed."""
    with closing(ImageWriter(path, (40, 50))) as writer:
        for number in range(count):
            writer.append(number, np.full((40, 50), 1 + number % 255, np.uint8), number * 10**9)
        writer.flush()
        written = path.read_bytes()
    return path.read_bytes() if closed else written


def test_a_closed_file_that_is_cut_short_has_the_rows_before_and_no_zeros(tmp_path: Path) -> None:
    whole = images(tmp_path / "a.h5", 200, closed=True)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    with open_reader(HDF5, cut, UNIQUE_ID) as reader:
        assert reader.read(IMAGE, 0, 100).all()
        with pytest.raises(DataError, match=r"cut\.h5: .* is cut short, rows from \d+ on"):
            reader.read(IMAGE)


@pytest.mark.parametrize("closed", [True, False])
def test_a_damaged_block_ends_the_reading(tmp_path: Path, closed: bool) -> None:
    content = bytearray(images(tmp_path / "a.h5", 200, closed=closed))
    damaged = tmp_path / "damaged.h5"
    for place in (content.find(b"OHDR"), content.rfind(b"OHDR")):
        content[place + 40 : place + 90] = bytes(50)
    damaged.write_bytes(content)
    # In a process of its own: a reader that hangs holds the lock of all HDF5 files.
    command = [sys.executable, "-c", READ_IMAGES, str(damaged)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "DataError" in done.stderr
    assert "damaged.h5: " in done.stderr


def test_rows_of_a_damaged_file_are_not_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(images(tmp_path / "a.h5", 20, closed=True))
    for place in (content.find(b"OHDR"), content.rfind(b"OHDR")):
        content[place + 40 : place + 90] = bytes(50)
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(content)
    resource = {"mimetype": HDF5, "uri": f"file://localhost{damaged}"}
    assert rows_on_disk([resource | {"parameters": {"dataset": IMAGE}}]) is None
    assert "damaged.h5" in caplog.text


def test_a_cut_image_is_no_zeros_in_tiled_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiled.adapters import hdf5

    from skywright.store.server import OpenHdf5

    assert hasattr(hdf5, "h5open"), "tiled has no adapters.hdf5.h5open: see skywright.store.server"
    monkeypatch.setattr(hdf5, "h5open", OpenHdf5)
    whole = images(tmp_path / "a.h5", 200, closed=True)
    for name, content in {"a.h5": whole, "cut%.h5": whole[: len(whole) * 2 // 3]}.items():
        (tmp_path / name).write_bytes(content)
    cut = {"uri": f"file://localhost{tmp_path / 'cut%.h5'}", "parameters": {"dataset": IMAGE}}
    parts = [(cut, ResourceRows("x", *rows)) for rows in ((2, 90), (95, 200))]
    write_virtual_file(tmp_path / "virtual.h5", parts)
    adapters = {
        name: hdf5.HDF5ArrayAdapter.from_uris(f"file://localhost{tmp_path / name}", dataset=dataset)
        for name, dataset in (("a.h5", IMAGE), ("cut%.h5", IMAGE), ("virtual.h5", VIRTUAL_DATASET))
    }
    assert adapters["a.h5"].read()[:].all()
    assert adapters["cut%.h5"].read((slice(0, 100),)).all()
    for name in ("cut%.h5", "virtual.h5"):
        with pytest.raises(OSError, match="the file is cut short"):
            adapters[name].read((slice(150, 160),))
    (tmp_path / "cut%.h5").unlink()
    with pytest.raises(OSError, match="No such file"):
        adapters["virtual.h5"].read((slice(0, 10),))


def test_tiled_reads_single_images_of_datasets_without_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself it reads all rows for each request: a file of another program, a resumed run."""
    from tiled.adapters import hdf5

    from skywright.store.server import OpenHdf5

    monkeypatch.setattr(hdf5, "h5open", OpenHdf5)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1024, 1024), np.uint8)
    source = {"uri": f"file://localhost{tmp_path / 'a.h5'}", "parameters": {"dataset": "x"}}
    write_virtual_file(tmp_path / "virtual.h5", [(source, ResourceRows("r", 1, 4))])
    for name, dataset, numbers in (("a.h5", "x", [0, 1, 2, 3]), ("virtual.h5", "kept", [1, 2, 3])):
        uri = f"file://localhost{tmp_path / name}"
        adapter = hdf5.HDF5ArrayAdapter.from_uris(uri, dataset=dataset)
        assert adapter.structure().chunks == ((1,) * len(numbers), (1024,), (1024,))
        assert adapter.read()[:, 7, 9].tolist() == numbers


def test_a_cut_column_is_no_zeros_in_tiled_either(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with closing(ColumnWriter(path, [Column("x", "<f8")], Column("id", "<i8"))) as writer:
        for first in range(0, 5000, 100):
            writer.append(np.arange(first, first + 100), {"x": np.ones(100)})
            writer.flush()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    structure = table_structure({"x": np.dtype("<f8")})
    table = ColumnsAdapter([path], {"x": "x", "id": "id"}, [(0, 0, 5000)], 1000, structure)
    assert table.values(["x"], 0, 100)["x"].all()
    with pytest.raises(OSError, match="the file is cut short"):
        table.read(["x"])


def test_an_image_of_several_chunks_and_one_without_chunks(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("many", data=np.ones((8, 64, 64)), chunks=(1, 16, 16))
        file.create_dataset("plain", data=np.ones((8, 64, 64)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 4])
    assert is_cut_short(path)
    with open_hdf5(path) as file:
        check_rows(file["many"], 0, 1)
        for name, row in (("many", 7), ("plain", 0)):
            with pytest.raises(OSError, match="the file is cut short"):
                check_rows(file[name], row, row + 1)


def test_rows_from_the_middle_of_one_chunk_to_the_next_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("rows", data=np.ones((8, 1000)), chunks=(4, 1000))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 10_000])
    with open_hdf5(path) as file:
        check_rows(file["rows"], 1, 4)
        with pytest.raises(OSError, match="rows from 4 on are missing"):
            check_rows(file["rows"], 3, 5)


def test_readers_of_one_file_may_come_before_and_after_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with closing(ImageWriter(path, (4, 5))) as writer:
        writer.append(0, np.ones((4, 5), np.uint8), 0)
        writer.flush()
        early = open_hdf5(path)
    with early, open_hdf5(path) as late:
        assert (early[IMAGE].shape, late[IMAGE].shape) == ((1, 4, 5), (1, 4, 5))
        path.unlink()
        assert read_rows(late[IMAGE], 0, 1).all()


def test_files_are_read_where_hdf5_has_no_limit_of_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path / "a.h5", 2, closed=True)
    monkeypatch.setattr("skywright.files.hdf5.ctypes.CDLL", lambda path: object())
    _attempts_setter.cache_clear()
    try:
        with open_hdf5(tmp_path / "a.h5") as file:
            assert len(file[IMAGE]) == 2
    finally:
        _attempts_setter.cache_clear()


@pytest.mark.parametrize("end", ["goes on", "ends"])
@pytest.mark.parametrize(
    ("kind", "limit", "flush_every"),
    [("images", 100_000, 1), ("images", 1_000_000, 3), ("heights", 30_000, 1)],
)
def test_a_process_lives_on_after_a_write_that_failed(
    tmp_path: Path, kind: str, limit: int, flush_every: int, end: str
) -> None:
    arguments = [tmp_path, kind, limit, flush_every, end]
    command = [sys.executable, "-c", FILL_UP, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    with ColumnReader(tmp_path / "a.h5", "/id") as reader:
        assert reader.count() == int(done.stdout)
        assert (reader.read("/h") == 1).all()

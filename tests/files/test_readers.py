"""Files of other programs: an index while they grow, roll over, come late; readers by mimetype."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
from support import raw_format
from support.raw_format import MIMETYPE, RawReader, append, image, index

from skywright.acquire.index_layout import IndexLayout
from skywright.acquire.recorder import Recorder
from skywright.analysis import ArrayInput
from skywright.analysis.frames import FrameReader
from skywright.callbacks.raw_run import RawRun, RawStream, RequiredKeys
from skywright.errors import DataError
from skywright.files import readers
from skywright.files.columns import ColumnReader
from skywright.files.index import FILE_NUMBER, IDENTITY, OFFSET, SIZE, IndexWriter, files_path
from skywright.files.readers import file_and_column, first_row, local_path, open_reader
from skywright.instruments import Instrument


@pytest.fixture(autouse=True)
def raw_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "instruments", lambda: {"raw": raw_format.INSTRUMENT})


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder[Any, Any]]:
    recorder: Recorder[Any, Any] = Recorder(IndexLayout(extra=(raw_format.TIME,)))
    recorder.start(tmp_path / "index.h5")
    yield recorder
    recorder.close()


def written(recorder: Recorder[Any, Any]) -> None:
    done = threading.Event()
    recorder.call_when_visible(done.set)
    assert done.wait(90)


def test_files_that_come_late_grow_roll_over_and_stay_quiet_are_read(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    a, b, quiet = (tmp_path / name for name in ("a.raw", "b.raw", "quiet.raw"))
    quiet.touch()
    append(a, range(5))
    recorder.offer(index(a, 0, 5))
    written(recorder)
    with open_reader(MIMETYPE, tmp_path / "index.h5", IDENTITY) as reader:
        assert reader.count() == 5
        append(a, range(5, 8))  # it grows
        append(b, range(8, 10))  # and rolls over
        assert reader.read("number", 0, 100).tolist() == list(range(5))
        recorder.offer(index(a, 5, 3, at=5))
        recorder.offer(index(b, 8, 2))
        written(recorder)
        assert reader.count() == 10
        np.testing.assert_array_equal(reader.read("image", 3, 10), [image(n) for n in range(3, 10)])
        assert reader.read(raw_format.TIME.path, 8).tolist() == [1e9 + 8, 1e9 + 9]
        append(quiet, range(10, 11))  # it speaks at last
        append(a, range(11, 12))
        recorder.offer(index(quiet, 10, 1))
        recorder.offer(index(a, 11, 1, at=8))
        written(recorder)
        assert reader.read("number").tolist() == list(range(12))
        assert len(reader.read("number", 12)) == 0


def test_records_that_are_not_in_the_order_of_their_file_are_read(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    append(tmp_path / "a.raw", range(8))
    for first, count in ((5, 3), (0, 2), (1, 2)):
        recorder.offer(index(tmp_path / "a.raw", first, count, at=first))
    written(recorder)
    with open_reader(MIMETYPE, tmp_path / "index.h5", IDENTITY) as reader:
        assert reader.read("number").tolist() == [5, 6, 7, 0, 1, 1, 2]


def test_an_index_that_cannot_be_created_leaves_no_list_of_files(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.touch()
    with pytest.raises(DataError, match=r"a\.h5: exists already"):
        IndexWriter(path)
    path.unlink()
    IndexWriter(path).close()


def test_records_of_a_file_that_could_not_be_listed_are_not_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("I/O error")

    path, values = tmp_path / "a.h5", {OFFSET: np.zeros(2, int), SIZE: np.ones(2, int)}
    writer = IndexWriter(path)
    writer.append(tmp_path / "a.raw", np.arange(2), values)
    writer.flush()
    writer.append(tmp_path / "b.raw", np.arange(2, 4), values)
    monkeypatch.setattr(writer.referred, "flush", fail)
    for close in (writer.flush, writer.close):
        with pytest.raises(OSError, match="I/O error"):
            close()
    writer.close()
    with (
        ColumnReader(path, IDENTITY) as index,
        ColumnReader(files_path(path), FILE_NUMBER) as files,
    ):
        assert index.read(IDENTITY).tolist() == [0, 1]
        assert files.read(FILE_NUMBER).tolist() == [0]


def test_what_is_wrong_with_a_raw_file_is_said(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    a = tmp_path / "a.raw"
    append(a, range(2))
    recorder.offer(index(a, 0, 3))
    recorder.offer(index(tmp_path / "gone.raw", 3, 1))
    written(recorder)
    with open_reader(MIMETYPE, tmp_path / "index.h5", IDENTITY) as reader:
        assert len(reader.read("image", 0, 2)) == 2
        with pytest.raises(DataError, match=r"a.raw: ends at byte \d+, expected \d+ as .*index.h5"):
            reader.read("image", 0, 3)
        with pytest.raises(DataError, match=r"gone.raw: cannot be read \(No such file"):
            reader.read("image", 3)
        with pytest.raises(DataError, match="no column 'colour'"):
            reader.read("colour", 0, 1)
        a.write_bytes(b"\0" * a.stat().st_size)
        with pytest.raises(DataError, match="not RAW1"):
            reader.read("image", 0, 1)


@pytest.mark.parametrize(
    "uri",
    ["http://host/a.h5", "file://[host/a.h5", "file://host/a%00.h5", "file://a.h5", "file:a.h5"],
)
def test_uris_that_name_no_file_are_refused(uri: str) -> None:
    """`skywright recover` goes on with the other files of the store."""
    with pytest.raises(DataError, match=r"expected a file:// URI"):
        local_path(uri)


@pytest.mark.parametrize("selected", ["1", "::2", "-3:", "3:5, 0:2", ["3:5", "1:", ":"]])
def test_slices_of_other_than_whole_rows_are_refused(selected: str | list[str]) -> None:
    with pytest.raises(DataError, match="expected start:stop of whole rows"):
        first_row({"slice": selected})


def test_resources_without_a_reader_are_refused_by_name(tmp_path: Path) -> None:
    resource = {"uri": "file:///a", "mimetype": "application/x-odd", "parameters": {"dataset": "x"}}
    with pytest.raises(DataError, match=r"'application/x-odd'; .*application/x-raw1"):
        file_and_column(resource)
    raw = resource | {"mimetype": MIMETYPE}
    assert file_and_column(raw) == (Path("/a"), "x")
    with pytest.raises(DataError, match="file://"):
        file_and_column(raw | {"uri": "https://a"})
    assert file_and_column(raw | {"uri": "file://localhost/a%20b"}) == (Path("/a b"), "x")
    assert file_and_column(raw | {"uri": "file://other-host/a"}) == (Path("/a"), "x")
    with pytest.raises(DataError, match="no dataset"):
        file_and_column(raw | {"parameters": {}})


class PlainReader:
    """A reader of a stranger, which knows no DataError."""

    def __init__(self, path: Path, column: str) -> None:
        self.file = path.open("rb")


def test_what_a_reader_of_a_stranger_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live analysis waits for a file that appears late, as it does with HDF5."""
    plain = Instrument("plain", "", readers={"x/plain": f"{__name__}:PlainReader"})
    monkeypatch.setattr(readers, "instruments", lambda: {"plain": plain})
    with pytest.raises(
        DataError, match=r"late\.raw: the reader of x/plain cannot open it: FileNot"
    ):
        open_reader("x/plain", tmp_path / "late.raw", "")


class WantsImages:
    inputs, identity, time, optional = ("image",), "frame_number", "frame_time", ()
    arrays: ClassVar[dict[str, ArrayInput]] = {"image": ArrayInput(2)}


def test_the_follower_reads_any_mimetype_that_has_a_reader(
    recorder: Recorder[Any, Any], tmp_path: Path
) -> None:
    append(tmp_path / "a.raw", range(20))
    recorder.offer(index(tmp_path / "a.raw", 0, 20))
    written(recorder)
    run = follow(tmp_path / "index.h5", MIMETYPE, 12)
    assert run.table is not None
    with FrameReader(run.table) as reader:
        assert reader.readable(0, 12) == 12
        batch = reader.read(4, 12)
    assert batch.identities.tolist() == list(range(4, 12))
    assert batch.times.tolist() == [1e9 + n for n in range(4, 12)]
    np.testing.assert_array_equal(batch["image"], [image(n) for n in range(4, 12)])
    assert "no reader for 'application/x-odd'" in follow(tmp_path / "a", "application/x-odd").error


def follow(path: Path, mimetype: str, rows: int = 1) -> RawStream:
    """Return what follows a run whose documents refer to the rows of a file."""
    run = RawRun({"uid": "r"}, RequiredKeys.of(WantsImages, {}))  # type: ignore[arg-type]
    run("descriptor", {"uid": "d", "name": "primary", "data_keys": raw_format.data_keys()})
    for bundle in raw_format.resources(path, mimetype).values():
        run("stream_resource", bundle.stream_resource_doc)
        run(
            "stream_datum",
            {
                "stream_resource": bundle.stream_resource_doc["uid"],
                "descriptor": "d",
                "indices": {"start": 0, "stop": rows},
                "seq_nums": {"start": 1, "stop": rows + 1},
            },
        )
    return run.streams["primary"]


WRITER = """
import sys
from pathlib import Path
from support.raw_format import TIME, index, record
from skywright.acquire.index_layout import IndexLayout
from skywright.acquire.recorder import Recorder
recorder = Recorder(IndexLayout(extra=(TIME,)))
folder = Path(sys.argv[1])
recorder.start(folder / "index.h5")
for n in range(10**6):
    path = folder / f"{n // 100}.raw"
    with path.open("ab") as file:
        file.write(record(n))
    recorder.offer(index(path, n, 1, at=n % 100))
    if recorder.rows_readable > 150:
        print("on", flush=True)
"""


def test_rows_of_a_killed_recorder_are_recovered_as_those_of_hdf5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of a killed recorder is whole as far as it goes, and its run gets all rows."""
    from skywright.store.journal_contents import JournalContents
    from skywright.store.recover import _files
    from skywright.store.repair import _closing_documents
    from skywright.store.tail import Line

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.kill()
    process.wait()
    process.stdout.close()
    with RawReader(tmp_path / "index.h5") as reader:
        rows = reader.count()
        assert rows > 150
        assert reader.read("number").tolist() == list(range(rows))
    contents = JournalContents()
    for number, (name, doc) in enumerate(dead_run(tmp_path / "index.h5", told=10), 1):
        contents.add(Line(number, name, doc))
    assert not contents.notes
    words = list(_closing_documents(contents, 1e9))
    told = {doc["indices"]["stop"] for name, doc in words if name == "stream_datum"}
    assert told == {rows}
    assert words[-1][1]["num_events"] == {"primary": rows}
    assert _files(contents) == {tmp_path / "index.h5", tmp_path / "index.files.h5"}
    for name in ("index.h5", "index.files.h5"):
        with h5py.File(tmp_path / name) as file:  # without SWMR: the flags are cleared
            assert len(file)


def dead_run(path: Path, told: int) -> list[tuple[str, Any]]:
    """Return the documents of a run that knows of `told` rows and has no stop."""
    from event_model import compose_run

    run = compose_run()
    descriptor = run.compose_descriptor(
        name="primary",
        data_keys={
            key: {"source": "raw", **value} for key, value in raw_format.data_keys().items()
        },
    ).descriptor_doc
    documents: list[tuple[str, Any]] = [("start", run.start_doc), ("descriptor", descriptor)]
    for bundle in raw_format.resources(path).values():
        resource = bundle.stream_resource_doc
        documents.append(("stream_resource", resource | {"run_start": run.start_doc["uid"]}))
        documents.append(
            (
                "stream_datum",
                {
                    "uid": f"{resource['uid']}/0",
                    "stream_resource": resource["uid"],
                    "descriptor": descriptor["uid"],
                    "indices": {"start": 0, "stop": told},
                    "seq_nums": {"start": 1, "stop": told + 1},
                },
            )
        )
    return documents

"""Runs that were paused and resumed, and files that have more rows than the run."""

from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from ophyd.sim import det, motor
from store.recording import Recording, array, scalar
from store.stack import Stack, truth
from store.test_dead_writer import leave
from support.limits import full_disk
from support.streaming import StreamingCamera, noise
from tiled.adapters.hdf5 import HDF5ArrayAdapter

from skywright.analysis.frames import FrameReader
from skywright.callbacks.journal import Journal
from skywright.callbacks.raw_run import RawRun, RequiredKeys
from skywright.files.readers import FirstIndices
from skywright.store.export.contents import read_contents
from skywright.store.file_nodes import VIRTUAL_DATASET, data_sources, write_virtual_file
from skywright.store.ingest import IngestState, RunIngest, ingest
from skywright.store.journal_contents import (
    ExternalRows,
    JournalContents,
    ResourceRows,
    datum_fields,
)
from skywright.store.recover import recover
from skywright.store.rows import stored_data_keys
from skywright.store.run_nodes import CatalogServer
from skywright.store.stored_run import catalog_documents
from skywright.store.tail import Line, Tail


def pausing_scan(camera: Any, points: int, pause_at: set[int]) -> Any:
    """Scan, and ask for a pause right after the event of some points, before the checkpoint."""

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def inner() -> Any:
        for point in range(points):
            yield from bps.checkpoint()
            yield from bps.mv(motor, point)
            yield from bps.trigger_and_read([camera, det, motor])
            if point in pause_at:
                pause_at.remove(point)
                yield from bps.pause()

    return inner()


def run_with_pauses(RE: RunEngine, camera: Any, points: int, pause_at: set[int]) -> str:
    with pytest.raises(RunEngineInterrupted):
        RE(pausing_scan(camera, points, pause_at))
    while pause_at:
        with pytest.raises(RunEngineInterrupted):
            RE.resume()
    return str(RE.resume().run_start_uids[0])


@pytest.mark.parametrize("pauses", [{1}, {0, 2, 3}])
def test_resumed_scan_with_frames_reads_as_if_never_paused(
    RE: RunEngine, stack: Stack, client: Any, journals: Path, pauses: set[int]
) -> None:
    RE.subscribe(Journal(journals, RE))
    camera = StreamingCamera("cam", journals)
    taken = 4 + len(pauses)
    uid = run_with_pauses(RE, camera, 4, pauses)
    path = journals / f"{uid}.jsonl"
    rows = truth(path)["primary"]
    assert camera.file is not None
    assert camera.file.count == taken
    assert ingest(path, client) is IngestState.DONE
    run = client["raw"][uid]
    data = run["primary"].read()
    assert data["motor"].values.tolist() == [rows[n]["motor"] for n in (1, 2, 3, 4)]
    numbers = data["cam_frame_number"].values.tolist()
    assert len(numbers) == 4
    assert numbers[-1] == taken
    for image, number in zip(data["cam_image"].values, numbers, strict=True):
        np.testing.assert_array_equal(image, noise(number))
    np.testing.assert_array_equal(run["primary/cam_image"][2, :5], noise(numbers[2])[:5])
    assert list(run.base["primary"].base["internal"].read(["seq_num"])["seq_num"]) == [1, 2, 3, 4]


def test_resumed_scan_is_right_at_each_moment(
    RE: RunEngine, client: Any, journals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Follow the run live, one step after each document: never more frames than events."""
    monkeypatch.setattr("skywright.store.line_writer.UPDATE_S", (0.0, 0.0))
    RE.subscribe(Journal(journals, RE))
    following: dict[str, RunIngest] = {}
    seen = []

    def follow(name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            following[doc["uid"]] = RunIngest(
                journals / f"{doc['uid']}.jsonl", CatalogServer(client)
            )
        if name != "stop":
            (ingest_now,) = following.values()
            ingest_now.step()
        if name == "event":
            (uid,) = following
            ingest_now._full_write_allowed_at = 0.0  # at once, for the test
            ingest_now.step()
            data = client["raw"][uid]["primary"].read()
            numbers = data["cam_frame_number"].values.tolist()
            seen.append((doc["seq_num"], numbers))

    RE.subscribe(follow)
    uid = run_with_pauses(RE, StreamingCamera("cam", journals), 3, {1})
    assert seen == [
        (1, [1]),
        (2, [1, 2]),
        (2, [1, 3]),
        (3, [1, 3, 4]),
    ]
    assert ingest(journals / f"{uid}.jsonl", client) is IngestState.DONE


def test_documents_of_a_resumed_run_name_the_rows_that_count(client: Any, journals: Path) -> None:
    """Rows 2 and 3 were taken again; then a second file began."""
    recording = Recording(journals)
    recording.stream("primary", x=scalar("integer", dtype_numpy="<i4", external="STREAM:"))
    files, expected = {}, []
    for name, ranges in (("a", [(0, 4, 1), (4, 7, 3)]), ("b", [(0, 2, 6)])):
        files[name] = journals / f"{recording.uid}-{name}.h5"
        with h5py.File(files[name], "w") as file:
            file["x"] = np.arange(10, dtype="<i4") + 100 * (name == "b")
        recording.file("x", files[name], *ranges)
    assert ingest(recording.stop(), client) is IngestState.DONE
    run = client["raw"][recording.uid]
    expected = [0, 1, 4, 5, 6, 100, 101]
    assert run["primary"].read()["x"].values.tolist() == expected
    uris, found = {}, []
    for name, doc in run.documents():
        if name == "stream_resource":
            uris[doc["uid"]] = doc["uri"]
        if name == "stream_datum":
            with h5py.File(uris[doc["stream_resource"]].removeprefix("file://localhost")) as file:
                rows = file["x"][doc["indices"]["start"] : doc["indices"]["stop"]].tolist()
            numbers = range(doc["seq_nums"]["start"], doc["seq_nums"]["stop"])
            found += zip(numbers, rows, strict=True)
    assert found == list(enumerate(expected, 1))


def test_each_stream_shows_its_own_images_of_a_file(tmp_path: Path) -> None:
    """A camera is read in two streams, so that its indices jump in both."""
    recording = Recording(tmp_path)
    image = array([2], dtype_numpy="<i4", external="STREAM:")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.stack([np.arange(9, dtype="<i4")] * 2, axis=1)
    for name in ("primary", "dark", "plain"):
        recording.stream(name, image=image)
    resource = recording.file("image", tmp_path / "a.h5")
    contents, tail, revisions = JournalContents(), Tail(recording.path), []
    rows = [("plain", 0, 1), ("plain", 1, 2), ("primary", 0, 3), ("dark", 3, 4), ("dark", 4, 5)]
    rows += [("primary", 5, 6), ("dark", 6, 7), ("primary", 7, 9)]
    seq_nums = dict.fromkeys(["primary", "dark", "plain"], 1)
    for name, start, stop in rows:
        recording.rows(resource, (start, stop, seq_nums[name]), stream=name)
        seq_nums[name] += stop - start
        for line in tail.read() or ():
            contents.add(line)
        revisions.append(contents.streams[name].revision)
    # A node that exists gets no other file: the run is written again.
    assert revisions == [0, 0, 0, 1, 1, 1, 1, 1]
    contents.stop = {}
    sources, shown = {}, {}
    for name, stream in contents.streams.items():
        ((_, sources[name]),) = data_sources(
            stream, contents, stored_data_keys(stream), tmp_path / "kept", tables=True
        )
    for name, source in sources.items():  # when all virtual files are there
        path = source.assets[0].data_uri.removeprefix("file://localhost")
        with h5py.File(path) as file:
            images = file[source.parameters["dataset"]][: source.structure.shape[0], 0]
        shown[name] = images.tolist()
    assert shown == {"primary": [0, 1, 2, 5, 7, 8], "dark": [3, 4, 6], "plain": [0, 1]}


def test_rows_without_seq_nums_follow_one_another() -> None:
    rows = ExternalRows(FirstIndices())
    for start in (0, 5):
        rows.add({**datum_fields("r", start, 0, 5), "seq_nums": {"start": 0, "stop": 0}}, "a.h5")
    assert rows.segments == [ResourceRows("r", 0, 10, 1)]


@pytest.mark.parametrize("row_0", [0, 8])
def test_a_run_may_begin_amid_the_first_of_several_files(row_0: int) -> None:
    rows = ExternalRows(FirstIndices())
    rows.add(datum_fields("a", 5, 1, 3), "a.h5")
    rows.add(datum_fields("b", row_0, 4, 2), "b.h5")
    assert [rows.first_index(each) for each in "ab"] == [0, row_0]


def test_virtual_file_while_the_source_is_still_written(client: Any, journals: Path) -> None:
    """The rows left out are left out of a file whose SWMR writer still has it open."""
    camera = StreamingCamera("cam", journals)
    camera.stage()
    for _ in range(5):
        camera.trigger()
    assert camera.file is not None
    resource = {
        "uri": f"file://localhost{camera.file.path}",
        "parameters": {"dataset": "/entry/data/data"},
    }
    target = journals / "kept.h5"
    write_virtual_file(
        target, [(resource, ResourceRows("r", 0, 2)), (resource, ResourceRows("r", 4, 5))]
    )
    with h5py.File(target, "r", swmr=True, libver="latest", locking=False) as file:
        kept = file[VIRTUAL_DATASET][:]
    camera.unstage()
    np.testing.assert_array_equal(kept, [noise(1), noise(2), noise(5)])


def test_nothing_is_left_of_a_virtual_file_on_a_full_disk(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["x"] = np.arange(5)
    resource = {"uri": f"file://localhost{tmp_path}/source.h5", "parameters": {"dataset": "x"}}
    with full_disk(), pytest.raises(OSError, match="large"):
        write_virtual_file(tmp_path / "kept.h5", [(resource, ResourceRows("r", 0, 2))])
    assert [path.name for path in tmp_path.iterdir()] == ["source.h5"]


@pytest.mark.parametrize("directory", ["plain", "50%20 of it"])
@pytest.mark.parametrize("is_dead", [False, True])
@pytest.mark.parametrize("goes_on", [False, True])
def test_first_rows_of_a_second_file_that_are_taken_again(
    client: Any, journals: Path, goes_on: bool, is_dead: bool, directory: str
) -> None:
    """Indices begin again with the second file, or go on from the first one.

    No document tells of the last row of a session that is dead.
    """
    journals = journals.with_name(directory) / "journal"
    journals.mkdir(parents=True)
    recording = Recording(journals)
    external = {
        "x": scalar("integer", dtype_numpy="<i4", external="STREAM:"),
        "image": array([2], dtype_numpy="<i4", external="STREAM:"),
    }
    recording.stream("primary", **external)
    for number, ranges in enumerate([[(0, 3, 1)], [(0, 2, 4), (2, 4 if is_dead else 5, 4)]]):
        path = journals / f"{recording.uid}-{number}.h5"
        values = np.arange(3 + 2 * number, dtype="<i4") + 100 * number
        with h5py.File(path, "w") as file:
            file["x"], file["image"] = values, np.stack([values, -values], axis=1)
        offset = 3 * number if goes_on else 0
        shifted = [(start + offset, stop + offset, seq_num) for start, stop, seq_num in ranges]
        for key in external:
            recording.file(key, path, *shifted, chunk_shape=[1])
    journal = leave(recording) if is_dead else recording.stop()
    assert ingest(journal, client) is IngestState.DONE
    stream = client["raw"][recording.uid]["primary"]
    expected = [0, 1, 2, 102, 103, 104]
    assert np.asarray(stream["x"].read()).tolist() == expected
    assert np.asarray(stream["image"].read()).tolist() == [[n, -n] for n in expected]
    (contents,) = read_contents(client["raw"][recording.uid]).streams
    assert all(part.asset.file.is_file() for c in contents.columns for part in c.parts)


@pytest.mark.parametrize("stored", ["after its end", "live", "by an older version"])
def test_a_file_that_is_longer_than_its_documents_say(
    client: Any, journals: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    """A camera took one more image before it began its second file."""
    recording = Recording(journals)
    external = {
        "x": scalar("integer", dtype_numpy="<i4", external="STREAM:"),
        "image": array([2], dtype_numpy="<i4", external="STREAM:"),
    }
    recording.stream("primary", **external)
    following = RunIngest(recording.path, CatalogServer(client))
    for number in range(2):
        path = journals / f"{recording.uid}-{number}.h5"
        values = np.arange(3, dtype="<i4") + 100 * number
        with h5py.File(path, "w") as file:
            file["x"], file["image"] = values, np.stack([values, -values], axis=1)
        for key in external:
            recording.file(key, path, (0, 2, 1 + 2 * number), chunk_shape=[1])
        while stored == "live" and following.step() is IngestState.MORE:
            pass
    recording.stop()
    with monkeypatch.context() as patch:
        if stored == "by an older version":
            patch.setattr("skywright.store.ingest.note_longer_files", lambda _: None)
        while (state := following.step()) is IngestState.MORE:
            pass
    assert state is IngestState.DONE
    expected = (recording.uid,) if stored == "by an older version" else ()
    assert recover(journals.parent, client).restored == expected
    stream = client["raw"][recording.uid]["primary"]
    assert np.asarray(stream["x"].read()).tolist() == [0, 1, 100, 101]
    assert np.asarray(stream["image"].read())[:, 0].tolist() == [0, 1, 100, 101]


@pytest.mark.parametrize("source", ["catalog", "server"])
def test_documents_of_an_array_over_two_files_name_both(
    client: Any, journals: Path, source: str
) -> None:
    """The last row of the second file belongs to no event; the path has a percent sign."""
    directory = journals.with_name("50%20 of it")
    directory.mkdir()
    recording = Recording(journals)
    image = array([2], dtype_numpy="<i4", external="STREAM:")
    recording.stream("primary", image=image)
    for number, rows in enumerate((3, 4)):
        path = directory / f"{recording.uid}-{number}.h5"
        values = np.arange(rows, dtype="<i4") + 100 * number
        with h5py.File(path, "w") as file:
            file["image"] = np.stack([values, -values], axis=1)
        recording.file("image", path, (0, 3, 1 + 3 * number), chunk_shape=[1])
    assert ingest(recording.stop(), client) is IngestState.DONE
    run = client["raw"][recording.uid]
    documents = list(catalog_documents(run) if source == "catalog" else run.documents())
    raw = RawRun(documents[0][1], RequiredKeys(("image",), "x", "time"))
    for name, doc in documents:
        raw(name, doc)
    table = raw.streams["primary"].table
    assert table is not None
    assert table.announced() == 6
    with FrameReader(table) as reader:
        assert reader.read(0, 6)["image"][:, 0].tolist() == [0, 1, 2, 100, 101, 102]


@pytest.mark.parametrize("source", ["catalog", "server"])
def test_documents_number_images_as_their_events(client: Any, journals: Path, source: str) -> None:
    """The second of four events was lost, and the catalog leaves out its image."""
    recording = Recording(journals)
    image = array([2], dtype_numpy="<i4", external="STREAM:")
    recording.stream("primary", image=image, y=scalar("number"))
    path = journals / f"{recording.uid}.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.arange(8, dtype="<i4").reshape(4, 2)
    recording.file("image", path, (0, 4, 1), chunk_shape=[1])
    for seq_num in (1, 3, 4):
        recording.event(seq_num=seq_num, y=float(seq_num))
    assert ingest(recording.stop(), client) is IngestState.DONE
    run = client["raw"][recording.uid]
    documents = list(catalog_documents(run) if source == "catalog" else run.documents())
    raw = RawRun(documents[0][1], RequiredKeys(("image", "y"), "x", "time"))
    for name, doc in documents:
        raw(name, doc)
    table = raw.streams["primary"].table
    assert table is not None
    with FrameReader(table) as reader:
        frames = reader.read(0, 3)
    assert frames["image"][:, 0].tolist() == [0, 4, 6]
    assert frames["y"].tolist() == [1.0, 3.0, 4.0]


@pytest.mark.parametrize("source", ["catalog", "server"])
def test_documents_of_further_files_whose_first_rows_were_taken_again(
    client: Any, journals: Path, tmp_path: Path, source: str
) -> None:
    """An analysis and an ingester that have nothing but these documents find the rows."""
    recording = Recording(journals)
    external = {
        "x": scalar("integer", dtype_numpy="<i4", external="STREAM:"),
        "image": array([2], dtype_numpy="<i4", external="STREAM:"),
    }
    parts = {"primary": [[(0, 3, 1)], [(0, 2, 4), (2, 5, 4)]], "second": [[(0, 4, 1), (4, 6, 1)]]}
    number = 0
    for stream, files in parts.items():
        recording.stream(stream, **external)
        for ranges in files:
            path = journals / f"{recording.uid}-{number}.h5"
            values = np.arange(6, dtype="<i4") + 100 * number
            with h5py.File(path, "w") as file:
                file["x"], file["image"] = values, np.stack([values, -values], axis=1)
            for key in external:
                recording.file(key, path, *ranges, stream=stream, chunk_shape=[1])
            number += 1
    assert ingest(recording.stop(), client) is IngestState.DONE
    run = client["raw"][recording.uid]
    documents = list(catalog_documents(run) if source == "catalog" else run.documents())
    raw = RawRun(documents[0][1], RequiredKeys(("image",), "x", "time"))
    contents = JournalContents()
    for number, (name, doc) in enumerate(documents):
        raw(name, doc)
        contents.add(Line(number, name, doc))
    assert not contents.notes
    expected = {"primary": [0, 1, 2, 102, 103, 104], "second": [204, 205, 202, 203]}
    for stream, rows in expected.items():
        images = [[n, -n] for n in rows]
        table = raw.streams[stream].table
        assert table is not None
        for each in table.all_in_files:
            each.drop_superseded()
        with FrameReader(table) as reader:
            frames = reader.read(0, len(rows))
        assert frames.identities.tolist() == rows
        assert frames["image"].tolist() == images
        again = contents.streams[stream]
        nodes = data_sources(again, contents, stored_data_keys(again), tmp_path, tables=True)
        found: dict[str, Any] = dict(nodes)
        for key, values in (("x", rows), ("image", images)):
            uris = [asset.data_uri for asset in found[key].assets]
            stored = HDF5ArrayAdapter.from_uris(*uris, **found[key].parameters).read()
            assert stored[: len(rows)].tolist() == values

"""Columns of files as one table in tiled, and what a run costs in requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pandas as pd
import pytest
from bluesky import RunEngine
from ophyd.sim import det
from store.recording import Recording, scalar
from store.stack import Stack
from support.streaming import StreamingCamera
from tiled.client import from_uri

from skywright.callbacks.journal import Journal
from skywright.files.columns import Column, ColumnWriter
from skywright.store import line_writer
from skywright.store.client import ensure_containers
from skywright.store.export import export_run
from skywright.store.export.contents import read_contents
from skywright.store.growing import growing_clients
from skywright.store.ingest import IngestState, RunIngest, ingest
from skywright.store.run_nodes import CatalogServer
from skywright.store.table_adapter import MIMETYPE

IDENTITY = "/entry/identity"


@contextmanager
def counted(client: Any) -> Iterator[list[str]]:
    """Give the requests that a client makes in a with block, as method and URL."""
    made: list[str] = []
    hooks = client.context.http_client.event_hooks["request"]
    hooks.append(lambda request: made.append(f"{request.method} {request.url}"))
    try:
        yield made
    finally:
        hooks.pop()


class FileRun:
    """A run whose rows are in a file of columns."""

    def __init__(self, journals: Path, columns: int, assets: Path | None = None) -> None:
        self.names = [f"c{n}" for n in range(columns)]
        self.recording = Recording(journals)
        self.rows = self.told = 0
        path = (assets or journals) / f"{self.recording.uid}.h5"
        of = [Column(f"/entry/{name}", "<f8") for name in self.names]
        self.writer = ColumnWriter(path, [*of, Column("/entry/tag", "S8")], Column(IDENTITY, "<i8"))
        paths = {name: f"/entry/{name}" for name in (*self.names, "tag")} | {"identity": IDENTITY}
        kinds = dict.fromkeys(self.names, ("number", "<f8"))
        kinds |= {"tag": ("string", "|S8"), "identity": ("integer", "<i8")}
        keys = {
            key: scalar(kind, dtype_numpy=dtype, external="STREAM:")
            for key, (kind, dtype) in kinds.items()
        }
        self._keys = keys
        self.begin("primary")
        self._resources = [
            self.recording.file(key, path, dataset=dataset, chunk_shape=[1024], swmr=True)
            for key, dataset in paths.items()
        ]

    def begin(self, stream: str) -> None:
        """Begin a stream, to which the further rows belong."""
        self.recording.stream(stream, **self._keys)
        self.stream, self._first = stream, self.told

    def append(self, rows: int) -> None:
        """Write rows to the file, flushed; no document tells of them."""
        numbers = np.arange(self.rows, self.rows + rows)
        values = {f"/entry/{name}": numbers + 0.5 for name in self.names}
        self.writer.append(numbers, values | {"/entry/tag": np.full(rows, b"abc", "S8")})
        self.writer.flush()
        self.rows += rows

    def tell(self) -> None:
        """Emit the stream datums of the rows written since the last call."""
        rows = self.told, self.rows, 1 + self.told - self._first
        for resource in self._resources:
            self.recording.rows(resource, rows, stream=self.stream)
        self.told = self.rows

    def stop(self) -> Path:
        self.writer.close()
        return self.recording.stop()


def test_requests_do_not_grow_with_columns_or_commits(journals: Path, client: Any) -> None:
    made = {}
    for columns, commits in ((1, 1), (60, 12)):
        run = FileRun(journals, columns)
        catalog = CatalogServer(client)
        catalog.container_of({})
        follower = RunIngest(run.recording.path, catalog)
        with counted(client) as requests:
            for _ in range(commits):
                run.append(3)
                run.tell()
                follower.step()
            run.stop()
            while follower.step() is not IngestState.DONE:
                pass
        made[columns] = len(requests)
    assert made[1] == made[60] <= 10, made


def test_run_that_is_stored_after_its_end_takes_two_requests(journals: Path, client: Any) -> None:
    run = FileRun(journals, 3)
    run.append(4)
    run.tell()
    catalog = CatalogServer(client)
    catalog.container_of({})
    follower = RunIngest(run.stop(), catalog)
    with counted(client) as requests:
        while follower.step() is not IngestState.DONE:
            pass
    assert len(requests) == 2, requests
    stored = client["raw"][run.recording.uid]
    assert stored["primary"].read()["c1"].values.tolist() == [0.5, 1.5, 2.5, 3.5]
    column = stored["primary/c1"]
    assert [float(column[row]) for row in (0, 2, -1)] == [0.5, 2.5, 3.5]
    assert column[::-2].tolist() == [3.5, 1.5]


def test_requests_of_an_export_do_not_grow_with_columns(
    journals: Path, client: Any, tmp_path: Path
) -> None:
    made = {}
    for columns in (2, 40):
        run = FileRun(journals, columns)
        run.append(4)
        run.tell()
        assert ingest(run.stop(), client) is IngestState.DONE
        stored = client["raw"][run.recording.uid]
        with counted(client) as requests:
            export_run(stored, tmp_path / str(columns), "csv")
        made[columns] = len(requests)
        frame = pd.read_csv(tmp_path / str(columns) / "primary.csv")
        assert frame[f"c{columns - 1}"].tolist() == [0.5, 1.5, 2.5, 3.5]
        assert frame["tag"].tolist() == ["abc"] * 4
    assert made[2] == made[40], made


def test_a_stream_is_read_with_one_request_and_one_for_each_part(
    journals: Path, client: Any
) -> None:
    run = FileRun(journals, 12)
    run.append(4)
    run.tell()
    assert ingest(run.stop(), client) is IngestState.DONE
    stream = client["raw"][run.recording.uid]["primary"]
    with counted(client) as requests:
        read = stream.read()
    assert read["c11"].values.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert len(requests) == 1 + len([*stream.base]), requests
    with counted(client) as requests:
        column = stream["c11"]
    assert len(requests) == 2, requests  # where it is, and what it is
    assert column.read().tolist() == [0.5, 1.5, 2.5, 3.5]
    with pytest.raises(KeyError, match="'c12' not found"):
        stream["c12"]


def test_run_of_a_camera_with_events_takes_few_requests(
    RE: RunEngine, journals: Path, client: Any
) -> None:
    RE.subscribe(Journal(journals, RE))
    camera = StreamingCamera("cam", journals)

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan() -> Any:
        for _ in range(10):
            yield from bps.trigger_and_read([camera, det])

    uid = RE(plan()).run_start_uids[0]
    with counted(client) as requests:
        assert ingest(journals / f"{uid}.jsonl", client) is IngestState.DONE
    assert len(requests) <= 5, requests


def test_a_growing_file_needs_no_request(journals: Path, client: Any) -> None:
    run = FileRun(journals, 3)
    follower = RunIngest(run.recording.path, CatalogServer(client))
    run.append(5)
    run.tell()
    follower.step()
    stream = client["raw"][run.recording.uid]["primary"]
    assert stream.read()["c1"].values.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    run.append(2)  # flushed, and nothing tells of it
    assert len(stream.read()["c1"]) == 7
    assert stream["identity"].read().tolist() == list(range(7))
    names = [name for name, _ in client["raw"][run.recording.uid].documents()]
    assert (names.count("stream_resource"), names.count("stream_datum")) == (5, 0)  # it is open
    run.tell()
    assert ingest(run.stop(), client) is IngestState.DONE
    stored = client["raw"][run.recording.uid]
    assert stored["primary/c2"][2:4].tolist() == [2.5, 3.5]
    assert stored["primary"].read()["tag"].values.tolist() == [b"abc"] * 7
    column = read_contents(stored).streams[0].column("c1")
    assert column is not None
    assert (column.shape, column.dtype) == ((7,), np.dtype("f8"))
    assert column.asset is not None
    assert column.asset.dataset == "/entry/c1"
    names = [name for name, _ in stored.documents()]
    assert names.count("stream_datum") == 5  # a column each
    assert names[-1] == "stop"


def test_rows_of_a_second_stream_are_not_shown_in_the_first_one(
    journals: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera that flies once for each stream, and records one file."""
    monkeypatch.setattr(line_writer, "UPDATE_S", (3600.0, 3600.0))
    run = FileRun(journals, 1)
    follower = RunIngest(run.recording.path, CatalogServer(client))
    run.append(3)
    run.tell()
    follower.step()
    run.begin("dark")
    run.append(2)
    run.tell()
    follower.step()
    stored = client["raw"][run.recording.uid]
    assert stored["primary"].read()["c0"].values.tolist() == [0.5, 1.5, 2.5]
    run.append(1)
    assert stored["dark"].read()["c0"].values.tolist() == [3.5, 4.5, 5.5]
    run.tell()
    assert ingest(run.stop(), client) is IngestState.DONE
    stored = client["raw"][run.recording.uid]
    assert [len(stored[name].read()["c0"]) for name in ("primary", "dark")] == [3, 3]


def test_rows_past_the_last_document_are_not_in_an_ended_run(journals: Path, client: Any) -> None:
    run = FileRun(journals, 1)
    run.append(4)
    run.tell()
    run.append(3)
    assert ingest(run.stop(), client) is IngestState.DONE
    assert len(client["raw"][run.recording.uid]["primary"].read()["c0"]) == 4


def test_half_a_row_is_never_seen(journals: Path, client: Any) -> None:
    run = FileRun(journals, 2)
    run.append(4)
    run.tell()
    RunIngest(run.recording.path, CatalogServer(client)).step()
    run.writer.append(np.array([4]), {"/entry/c0": [9.0], "/entry/c1": [9.0], "/entry/tag": [b""]})
    for dataset in run.writer._data.values():
        dataset.flush()  # the values are there, their identity is not
    assert len(client["raw"][run.recording.uid]["primary"].read()["c1"]) == 4
    run.stop()


def test_large_tables_are_read_in_partitions(
    journals: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skywright.store.file_nodes.PARTITION_BYTES", 1000)
    run = FileRun(journals, 3)
    run.append(200)
    run.tell()
    assert ingest(run.stop(), client) is IngestState.DONE
    stored = client["raw"][run.recording.uid]
    table = stored.base["primary"].base["columns"]
    assert table.structure().npartitions > 5
    assert stored["primary"].read()["c2"].values.tolist() == [n + 0.5 for n in range(200)]
    assert stored["primary/identity"][97:99].tolist() == [97, 98]


@pytest.fixture(scope="module")
def foreign(stack: Stack) -> Iterator[Any]:
    """A server that knows nothing of us."""
    from tiled.server import SimpleTiledServer

    with SimpleTiledServer(readable_storage=[stack.directory / "assets"]) as server:
        client = from_uri(server.uri, growing_clients())
        ensure_containers(client)
        yield client


def test_server_of_somebody_else_gets_arrays(foreign: Any, journals: Path) -> None:
    catalog = CatalogServer(foreign)
    for columns in (3, 2):
        run = FileRun(journals, columns)
        run.append(4)
        run.tell()
        follower = RunIngest(run.stop(), catalog)
        with counted(foreign) as requests:
            while follower.step() is not IngestState.DONE:
                pass
        stored = foreign["raw"][run.recording.uid]
        assert stored["primary"].read()["c1"].values.tolist() == [0.5, 1.5, 2.5, 3.5]
        assert stored["primary/identity"].read().tolist() == [0, 1, 2, 3]
        assert "columns" not in stored.base["primary"].base
    registered = [each for each in requests if each.startswith("POST") and "register" in each]
    assert len(registered) == 4  # the second run does not ask for a table again


def test_two_files_of_one_stream_are_two_tables(journals: Path, client: Any) -> None:
    recording = Recording(journals)
    keys = {}
    for name, rows in (("a", 3), ("b", 5)):
        with h5py.File(journals / f"{recording.uid}-{name}.h5", "w") as file:
            file["x"] = np.arange(rows, dtype="<i4")
        keys[name] = scalar("integer", dtype_numpy="<i4", external="STREAM:")
    recording.stream("primary", **keys)
    for name, rows in (("a", 3), ("b", 5)):
        recording.file(name, journals / f"{recording.uid}-{name}.h5", (0, rows, 1), dataset="x")
    assert ingest(recording.stop(), client) is IngestState.DONE
    stream = client["raw"][recording.uid]["primary"]
    assert set(stream.base) == {"columns", "columns_2"}
    assert (stream["a"].shape, stream["b"].shape) == ((3,), (5,))
    source = stream.base["columns"].data_sources()[0]
    assert source.mimetype == MIMETYPE

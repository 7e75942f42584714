"""A run whose images stay in files of another program, from a dead writer to the export."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store.recording import Recording
from store.stack import Stack, running_stack
from support import forked, raw_format
from support.raw_format import MIMETYPE, image, index, record

from skywright.acquire.index_layout import IndexLayout
from skywright.acquire.recorder import Recorder
from skywright.errors import DataError
from skywright.files import readers
from skywright.files.readers import FirstIndices
from skywright.store.export import export_run
from skywright.store.export.contents import read_contents
from skywright.store.file_nodes import data_sources
from skywright.store.ingest import IngestState, ingest
from skywright.store.journal_contents import Stream, datum_fields
from skywright.store.pictures import read_frame
from skywright.store.recover import contents_of
from skywright.store.stored_run import catalog_documents

ROWS = 40


@pytest.fixture(scope="module", autouse=True)
def declared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The format is declared by an instrument of another distribution, for all processes."""
    site = tmp_path_factory.mktemp("site")
    info = site / "raw_instrument-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: raw-instrument\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[skywright.instruments]\nraw = support.raw_format:INSTRUMENT\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{site}:{Path(__file__).parents[1]}", prepend=":")
        patch.setattr(forked, "AHEAD", {})  # the server is not forked from this process
        patch.setattr(readers, "instruments", lambda: {"raw": raw_format.INSTRUMENT})
        yield site


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, declared: Path) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def client(stack: Stack) -> Any:
    return stack.client()


def dead_run(journals: Path, mimetype: str = MIMETYPE, told: int = 10) -> Recording:
    """Leave a run of `told` rows, of which `ROWS` are on disk in two raw files, without a stop."""
    recorder: Recorder[Any, Any] = Recorder(IndexLayout(extra=(raw_format.TIME,)))
    path = journals / "index.h5"
    recorder.start(path)
    for first, name in ((0, "a.raw"), (ROWS // 2, "b.raw")):
        numbers = range(first, first + ROWS // 2)
        (journals / name).write_bytes(b"".join(map(record, numbers)))
        recorder.offer(index(journals / name, first, ROWS // 2))
    done = threading.Event()
    recorder.call_when_visible(done.set)
    assert done.wait(90)
    recorder.close()
    recording = Recording(journals).stream("primary", **raw_format.data_keys())
    for bundle in raw_format.resources(path, mimetype).values():
        resource = bundle.stream_resource_doc | {"run_start": recording.uid}
        recording.journal("stream_resource", resource)
        recording.rows(bundle, (0, told, 1))
    recording.journal.close()
    return recording


def test_images_of_a_dead_writer_are_in_catalog_export_and_reprocessing(
    journals: Path, client: Any, tmp_path: Path
) -> None:
    recording = dead_run(journals)
    assert ingest(recording.path, client) is IngestState.DONE
    run = client["raw"][recording.uid]
    assert run.metadata["stop"]["num_events"] == {"primary": ROWS}
    expected = [image(number) for number in range(ROWS)]
    np.testing.assert_array_equal(run["primary"]["raw_image"].read(), expected)
    np.testing.assert_array_equal(run["primary"]["raw_image"][18:23], expected[18:23])
    for row in (0, 5, -1):
        np.testing.assert_array_equal(run["primary"]["raw_image"][row], expected[row])
    np.testing.assert_array_equal(run["primary"]["raw_image"][5, 1], expected[5][1])
    assert run["primary"].read()["raw_frame_number"].values.tolist() == list(range(ROWS))

    (stream,) = read_contents(run).streams
    column = stream.column("raw_image")
    assert column is not None
    np.testing.assert_array_equal(column.read(slice(0, 3)), expected[:3])
    assert read_frame(run, "primary", "raw_image", 25).shape == raw_format.SHAPE
    export_run(run, tmp_path / "run.nxs", "nexus")
    with h5py.File(tmp_path / "run.nxs") as file:
        found: list[h5py.Dataset] = []
        file.visititems(
            lambda name, node: found.append(node) if name.endswith("raw_image") else None
        )
        np.testing.assert_array_equal(found[0][:], expected)
    again = [doc for name, doc in catalog_documents(run) if name == "stream_resource"]
    assert {doc["data_key"]: doc["mimetype"] for doc in again}["raw_image"] == MIMETYPE


def test_late_images_are_those_after_the_last_event(journals: Path) -> None:
    """The stream of the rows without an event names them by a slice of the file."""
    recording = dead_run(journals)
    contents = contents_of(recording.path)
    stream = contents.streams["primary"]
    stream.data_keys["z"] = {"dtype": "number", "shape": []}  # values beside the images
    resource = next(r for r in contents.resources.values() if r["data_key"] == "raw_image")
    late = resource | {"uid": "late", "parameters": resource["parameters"] | {"slice": "5:8"}}
    contents.resources["late"], contents.stop = late, {}
    alone = Stream("late", "late", {"raw_image": stream.data_keys["raw_image"]})
    alone.add_external_rows(
        late, {"descriptor": "late", **datum_fields("late", 0, 1, 3)}, FirstIndices()
    )
    ((_, source),) = data_sources(alone, contents, alone.data_keys, journals, tables=True)
    assert not isinstance(source, DataError)
    assert source.parameters["segments"] == [[0, 5, 8]]


def test_a_mimetype_that_nobody_knows_does_not_stop_the_ingest(journals: Path, client: Any) -> None:
    recording = dead_run(journals, "application/x-odd")
    assert ingest(recording.path, client) is IngestState.DONE
    run = client["raw"][recording.uid]
    assert any("no reader for application/x-odd" in note for note in run.metadata["notes"])
    assert run.metadata["stop"]["num_events"] == {"primary": 10}

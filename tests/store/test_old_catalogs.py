"""Runs written before the columns of a file were one table: they open, list, export, reprocess."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count
from store.stack import Stack
from support.reprocessing import reprocess
from support.streaming import StreamingCamera

from skywright.callbacks.journal import Journal
from skywright.errors import DataError
from skywright.store.client import broker
from skywright.store.export import export_run
from skywright.store.ingest import IngestState, RunIngest
from skywright.store.lookup import RunFilter, find_runs
from skywright.store.pictures import write_pictures
from skywright.store.recover import recover
from skywright.store.run_nodes import CatalogServer
from skywright.store.show import view_run
from skywright.store.stored_run import catalog_documents


@pytest.fixture
def old(RE: RunEngine, journals: Path, client: Any) -> Any:
    """A run in the old layout, in which each column of a file is an array node."""
    RE.subscribe(Journal(journals, RE))
    uid = RE(count([StreamingCamera("cam", journals)], 3)).run_start_uids[0]
    catalog = CatalogServer(client)
    catalog.tables = False
    run = RunIngest(journals / f"{uid}.jsonl", catalog)
    while run.step() is not IngestState.DONE:
        pass
    stored = client["raw"][uid]
    assert set(stored["primary"].base) == {
        "internal",
        "cam_image",
        "cam_frame_number",
        "cam_frame_time",
    }
    return stored


def test_old_run_opens_and_lists(old: Any, client: Any, tmp_path: Path) -> None:
    uid = old.metadata["start"]["uid"]
    assert old["primary"].read()["cam_frame_number"].values.tolist() == [1, 2, 3]
    assert old["primary/cam_frame_number"][1:].tolist() == [2, 3]
    assert find_runs(client, RunFilter(text=uid))[0].events == {"primary": 3}
    assert broker(client)[uid].start["uid"] == uid
    view = view_run(client, old)
    assert {column.name for column in view.streams[0].columns} >= {"cam_image", "cam_frame_time"}
    assert len(write_pictures(old, view, tmp_path / "pictures")) == 4


@pytest.mark.parametrize("format", ["nexus", "csv", "zarr"])
def test_old_run_is_exported(old: Any, tmp_path: Path, format: str) -> None:
    report = export_run(old, tmp_path / "out", format)
    assert report.status == "success"


def test_old_run_gives_its_documents_to_a_reprocessing(old: Any) -> None:
    documents = list(catalog_documents(old))
    files = {d["data_key"]: d for name, d in documents if name == "stream_resource"}
    assert files.keys() == {"cam_image", "cam_frame_number", "cam_frame_time"}
    rows = [doc["indices"] for name, doc in documents if name == "stream_datum"]
    assert rows == [{"start": 0, "stop": 3}] * 3


def test_a_reprocessing_says_which_arrays_it_needs_and_which_there_are(
    old: Any, tmp_path: Path
) -> None:
    with pytest.raises(
        DataError,
        match=r"needs: image \(2 or more dimensions, uint8, sides of at least 64 px\); "
        r"it has cam_image \((1 x )?48 x 64, uint8\)",
    ):
        reprocess(old, "loop_detection", store=tmp_path)


def test_recover_takes_old_runs_for_whole(old: Any, client: Any, stack: Stack) -> None:
    uid = old.metadata["start"]["uid"]
    done = Path(next(stack.directory.rglob(f"{uid}.jsonl")))
    report = recover(done.parents[2], client)
    assert uid not in report.restored
    assert np.array_equal(client["raw"][uid]["primary"].read()["cam_frame_number"], [1, 2, 3])

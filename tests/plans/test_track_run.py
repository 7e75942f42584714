"""A run that something else takes, over Channel Access into tiled."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from bluesky import RunEngine
from ioc_process import running_ioc
from store.stack import Stack
from support.pano_files import file_name, made_frames, run_directory
from support.waiting import until

from devices.panoseti import array
from devices.panoseti.array import Panoseti
from plans.panoseti.runs import track_run
from skywright.callbacks.journal import Journal
from skywright.errors import HardwareError
from skywright.files.readers import file_and_column, open_reader
from skywright.instruments.panoseti.opened import open_run
from skywright.instruments.panoseti.pff import read_pff
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.telescopes import flash_parameters
from skywright.store.client import RAW
from skywright.store.export import export_run

RUN = "obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"


def check_opened(stored: Any, run: Path) -> None:
    """Compare `open_run` with the files; count its requests."""
    requests: list[Any] = []
    hooks = stored.context.http_client.event_hooks["request"]
    hooks.append(requests.append)
    opened = open_run(stored)
    hooks.pop()
    assert set(opened) == {"img16", "ph256"}
    assert len(requests) <= 15, [str(each.url) for each in requests]
    movie, pulses = (read_pff(next(run.glob(f"*{name}*seqno_0*"))) for name in ("img16", "ph256"))
    images = opened["img16"].image
    assert images.dims == ("time", "y", "x")
    assert images.dtype == np.uint16
    np.testing.assert_array_equal(opened["img16"].time_ns, movie.time_ns)
    np.testing.assert_array_equal(opened["img16"].time.values.astype(np.int64), movie.time_ns)
    for index in (slice(7, 9), 7, -1, slice(None, None, 10), [9, 2, 9]):
        np.testing.assert_array_equal(images[index].compute(), movie.image[index])
    assert opened["img16"].time_ns[5].compute() == movie.time_ns[5]
    assert set(opened["img16"].module.values) == {1}
    first = opened["ph256"].isel(time=slice(0, len(pulses)))
    np.testing.assert_array_equal(first.quabo, pulses.quabo)
    np.testing.assert_array_equal(first.image.compute(), pulses.image)


def check_exports(stored: Any, run: Path, directory: Path) -> None:
    """Compare exports with the files."""
    movie = read_pff(next(run.glob("*img16*")))
    name = "panoseti_m1_img16_image"
    export_run(stored, directory / "run.nxs", "nexus")
    with h5py.File(directory / "run.nxs") as file:
        np.testing.assert_array_equal(file[f"entry/m1_img16/{name}"][()], movie.image)
        times = file["entry/m1_img16/panoseti_m1_img16_time"][()]
    np.testing.assert_array_equal(times, movie.time_ns)
    export_run(stored, directory / "run.zarr", "zarr")
    stream = zarr.open_group(directory / "run.zarr", mode="r")["m1_img16"]
    np.testing.assert_array_equal(stream[name][:], movie.image)
    assert stream["panoseti_m1_img16_time"].dtype == np.int64


def test_a_finished_real_run_is_in_the_catalog_frame_by_frame(
    RE: RunEngine, stack: Stack, test_data, tmp_path
) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(test_data / "panoseti/data_dir/module_1", data_dir / "module_1")
    shutil.copytree(test_data / "panoseti/data_dir" / RUN, data_dir / RUN)
    run = data_dir / "module_1" / RUN
    run.chmod(0o755)
    (run / "recording_ended").write_text("2024-07-25T01:19:53")
    with running_ioc("iocs.panoseti", "--source", "rundir", "--data-dir", str(data_dir)) as ioc:
        panoseti = Panoseti(ioc.prefix, assets=stack.directory / "assets", name="panoseti")
        journal = Journal(stack.journals)
        RE.subscribe(journal)
        documents = []
        RE.subscribe(lambda name, doc: documents.append((name, doc)))
        with stack.ingester():
            uid = RE(track_run(panoseti, 60.0)).plan_result
            stack.done(uid)
        journal.close()
    stored = stack.client()[RAW][uid]
    start = stored.metadata["start"]
    assert start["pff_run"] == RUN
    assert start["run_configs"]["data_config"]["image"]["integration_time_usec"] == 1000
    assert start["run_configs"]["obs_config"]["wps_barnard"]["url"] == "http://barnard-power"
    configuration = stored["events"].metadata["configuration"]["panoseti_events"]["data"]
    ((west, barnard, meters),) = flash_parameters(configuration)["baselines_m"]
    assert (west, barnard) == (1, 3)
    assert 200 < meters < 2000
    written = "".join(p.read_text() for p in stack.journals.rglob("*") if p.is_file())
    assert RUN in written
    assert "PASSWORD" not in written
    check_opened(stored, run)
    check_exports(stored, run, tmp_path)
    assert set(stored) >= {"m1_img16", "m1_ph256"}
    movie = read_pff(next(run.glob("*img16*")))
    times = stored["m1_img16/panoseti_m1_img16_time"].read()
    np.testing.assert_array_equal(times, movie.time_ns)
    images = stored["m1_img16/panoseti_m1_img16_image"]
    assert images.shape == (250, 32, 32)
    np.testing.assert_array_equal(images[100:130], movie.image[100:130])
    assert len(stored["m1_ph256/panoseti_m1_ph256_frame"].read()) == 800
    resource = next(
        doc
        for name, doc in documents
        if name == "stream_resource" and doc["data_key"] == "panoseti_m1_img16_image"
    )
    assert resource["mimetype"] == "application/x-pff"
    path, column = file_and_column(resource)
    with open_reader(resource["mimetype"], path, column) as reader:
        np.testing.assert_array_equal(reader.read("img16", 10, 20), movie.image[10:20])


def test_a_run_that_is_over_is_passed_over_and_the_next_one_is_tracked(
    RE: RunEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "data"
    old = run_directory(data_dir, 1, "old")
    (old / file_name("img16")).write_bytes(encode_frames(made_frames("img16", 5)))
    (old / "recording_ended").touch()
    frames = made_frames("img16", 7, seed=1)

    is_under_way = array.is_under_way

    def look(directory: Path, run: str) -> bool:
        found = is_under_way(directory, run)
        if not found:  # the old run was passed over: now the next one begins
            new = run_directory(directory, 1, "new")
            (new / file_name("img16")).write_bytes(encode_frames(frames))
        return found

    documents: list[tuple[str, dict[str, Any]]] = []

    def end(name: str, doc: dict[str, Any]) -> None:
        documents.append((name, doc))
        if name == "start":
            (data_dir / "module_1" / doc["pff_run"] / "recording_ended").touch()

    RE.subscribe(end)
    with running_ioc("iocs.panoseti", "--source", "rundir", "--data-dir", str(data_dir)) as ioc:
        panoseti = Panoseti(ioc.prefix, assets=tmp_path / "assets", name="panoseti")
        panoseti.wait_for_connection(timeout=60)
        until(lambda: panoseti.run_name.get() == old.name, 60, "the old run is found")
        with pytest.raises(HardwareError, match="no run was under way within 0 s"):
            panoseti.find_run(0.0, wait_for_new=True).wait(60)
        panoseti.track().wait(60)  # no run by name: the newest one
        until(lambda: panoseti.rows("m1_img16") == 5, 60, "it is indexed")
        panoseti.end_track().wait(60)
        monkeypatch.setattr(array, "is_under_way", look)
        RE(track_run(panoseti, 120.0, wait_for_new=True))
    assert "obs_new" in documents[0][1]["pff_run"]
    resource = next(
        doc
        for name, doc in documents
        if name == "stream_resource" and doc["data_key"] == "panoseti_m1_img16_image"
    )
    path, column = file_and_column(resource)
    with open_reader(resource["mimetype"], path, column) as reader:
        np.testing.assert_array_equal(reader.read(column), frames.image)

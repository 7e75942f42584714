"""A plan in whose course the facility begins runs: files, documents, catalog; over its double."""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from ioc_process import running_ioc
from support.ready_process import ReadyProcess, ended_after
from support.reprocessing import reprocess
from support.waiting import until

from devices.sacla.shots import Shots
from plans.sacla.shots import acquire_shots
from skywright.callbacks.journal import Journal, journal_path
from skywright.files.readers import file_and_column, open_reader
from skywright.instruments.sacla import facility
from skywright.instruments.sacla.facility.control import FacilityControl
from skywright.instruments.sacla.facility.settings import EQUIPMENT_IDS
from skywright.instruments.sacla.twin import SINGLE
from skywright.store.ingest import IngestState, ingest

SHOTS = 420  # also a slow computer sees the third run begin before the last shot
ROI = f"all:{SINGLE}:-0.5,-0.5;9.5,-0.5;9.5,11.5;-0.5,11.5"
ONLINE = f"""
detectors = ["{SINGLE}"]
[equipment]
timing = "{EQUIPMENT_IDS["timing"]}"
"""
DOUBLE = ("rate_hz=30", "shape=[12,10]", "pool=4", "ring_images=2000", "beam_off=0")


@pytest.fixture
def socket() -> Iterator[Path]:
    """Where a double of the facility listens; it runs in real time."""
    directory = Path(tempfile.mkdtemp(prefix="sacla"))  # the path of a socket must be short
    words = [word for each in DOUBLE for word in ("--set", each)]
    command = ("-m", "skywright.cli", "sacla", "facility", "--socket", str(directory / "s"))
    try:
        with ended_after(ReadyProcess(*command, *words)):
            yield directory / "s"
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def sacla(socket: Path, journals: Path, tmp_path: Path) -> Iterator[Shots]:
    online = tmp_path / "online.toml"
    online.write_text(ONLINE)
    environment = {facility.SOCKET_VARIABLE: str(socket), "PYTHONPATH": str(facility.path())}
    args = ("--source", "sacla", "--online", str(online), "--roi", ROI, "--frames-every", "1")
    with running_ioc("iocs.sacla", *args, **environment) as ioc:
        device = Shots(ioc.prefix, assets=journals.parent, name="sacla")
        device.wait_for_connection(timeout=60)
        device.silence_limit.put(60.0)
        yield device


def begin_runs(sacla: Shots, socket: Path) -> None:
    """Begin a run with a new high tag and low tags, and a further one."""
    control = FacilityControl(socket)
    for run, wanted, tags in ((501, 20, (202302, 1000)), (502, 40, (None, None))):
        until(lambda r=run: sacla.run_number.get() == r, 120, "the run")
        until(lambda n=wanted: bool(sacla.rows.file) and sacla.rows.get_index() > n, 120, "shots")
        control.start_run(*tags)
    control.close()


def test_a_new_run_opens_new_files_and_the_stream_goes_on(
    RE: RunEngine, sacla: Shots, socket: Path, journals: Path, client: Any, tmp_path: Path
) -> None:
    documents: list[tuple[str, dict]] = []
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    RE.subscribe(Journal(journals))
    thread = threading.Thread(target=begin_runs, args=(sacla, socket))
    thread.start()
    RE(acquire_shots(sacla, SHOTS))
    thread.join()

    def of(kind: str) -> list[dict]:
        return [doc for name, doc in documents if name == kind]

    def rows_of(key: str) -> list[tuple[dict, np.ndarray]]:
        """Return the rows of each file of a column that documents tell of, and their numbers."""
        found = []
        for resource in (each for each in of("stream_resource") if each["data_key"] == key):
            data = [d for d in of("stream_datum") if d["stream_resource"] == resource["uid"]]
            path, dataset = file_and_column(resource)
            with open_reader(resource["mimetype"], path, dataset) as reader:
                assert data[0]["indices"]["start"] == 0
                found.append((data, reader.read(dataset, 0, data[-1]["indices"]["stop"])))
        return found

    assert of("stop")[0]["exit_status"] == "success"
    runs, tags, frames = (rows_of(f"sacla_{key}") for key in ("run", "tag", "frame_tag"))
    assert len(runs) == len(tags) == len(frames) == 3
    assert [set(rows.tolist()) for _, rows in runs] == [{501}, {502}, {503}]
    assert sum(len(rows) for _, rows in runs) == SHOTS
    # One file goes on where the one before ended, in the numbers of the stream.
    ranges = [data["seq_nums"] for part, _ in runs for data in part]
    assert ranges[0]["start"] == 1
    assert all(a["stop"] == b["start"] for a, b in pairwise(ranges))
    assert [rows[0] >> 32 for _, rows in tags] == [202301, 202302, 202302]
    assert (np.diff(np.concatenate([rows for _, rows in tags])) > 0).all()
    assert tags[1][1][0] & 0xFFFFFFFF == 1000
    for (_, shots), (_, kept) in zip(tags, frames, strict=True):
        assert set(kept) <= set(shots)
    uid = of("start")[0]["uid"]
    assert ingest(journal_path(journals, uid), client) is IngestState.DONE
    stored = client["raw"][uid]["primary"]
    expected = np.concatenate([rows for _, rows in tags])
    np.testing.assert_array_equal(stored["sacla_tag"].read(), expected)
    sums = stored["sacla_sum_ev"].read()
    assert len(sums) == SHOTS
    accepted = stored["sacla_accepted"].read() == 1
    assert np.isfinite(sums[accepted, 0]).all()
    # With the journal, and on a machine that has the catalog and the files only.
    for store in (journals.parent, tmp_path / "elsewhere"):
        (again,) = reprocess(client["raw"][uid], "sacla_curves", {"regions": 16}, store=store)
        assert again.result["n_on"] + again.result["n_off"] == accepted.sum() > 100

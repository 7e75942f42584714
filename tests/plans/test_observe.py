"""A run of the simulated array, over Channel Access."""

import numpy as np
import pytest
from bluesky import RunEngine
from ioc_process import running_ioc
from ophyd import EpicsSignalRO
from support.waiting import until

from devices.panoseti.array import Panoseti
from plans.panoseti.runs import observe
from skywright.errors import ConfigError, HardwareError
from skywright.files.readers import locate, open_reader
from skywright.instruments.panoseti.demos.clients import StreamClients
from skywright.instruments.panoseti.pff import PffFile


def test_a_simulated_run_has_each_frame_once(RE: RunEngine, tmp_path) -> None:
    documents = []
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    data_dir = tmp_path / "data"
    arguments = ("--source", "sim", "--data-dir", str(data_dir), "--grpc-port", "0")
    with running_ioc("iocs.panoseti", *arguments) as ioc:
        panoseti = Panoseti(ioc.prefix, assets=tmp_path / "assets", name="panoseti")
        panoseti.wait_for_connection(timeout=60)
        port = until(lambda: int(panoseti.grpc_port.get()), 30, "live frames are served")
        with StreamClients(f"127.0.0.1:{port}") as clients:
            RE(observe(panoseti, 3.0))
        assert clients.error == ""
        for received in clients.received:
            # Modules take turns: nobody starves.
            assert sorted(received.by_module) == [250, 252, 253, 254]
            assert received.images == sum(received.by_module.values())
        documents.clear()
        RE(observe(panoseti, 3.0))  # this run does not contain the first
        housekeeping = [
            EpicsSignalRO(f"{ioc.prefix}M{slot}:Q3:{name}_RBV", name="hk")
            for slot in (1, 4)
            for name in ("TEMP1", "HVMON2", "SHUTTER_STATUS")
        ]
        for signal in housekeeping:
            signal.wait_for_connection(timeout=30)
        until(lambda: not np.isnan(housekeeping[-1].get()), 30, "housekeeping is posted")
        values = [signal.get() for signal in housekeeping]
    assert values[::3] == pytest.approx([25.0, 25.0], abs=1.0)
    assert values[1::3] == pytest.approx([-55.6, -55.6], abs=0.5)
    assert values[2::3] == [1.0, 1.0]
    start = documents[0][1]
    assert (data_dir / start["pff_run"] / "recording_ended").is_file()
    assert start["run_configs"]["sim_config"]["settings"]["modules"] == [250, 252, 253, 254]
    assert next(doc for name, doc in documents if name == "stop")["exit_status"] == "success"
    modules = sorted(data_dir.glob("module_*"))
    assert len(modules) == 4
    newest = max(path.name for path in modules[0].iterdir())
    resources = {doc["data_key"]: doc for name, doc in documents if name == "stream_resource"}
    rows = {}
    for name, doc in documents:
        if name == "stream_datum":
            uid = doc["stream_resource"]
            rows[uid] = rows.get(uid, 0) + doc["indices"]["stop"] - doc["indices"]["start"]
    counts = sorted(rows[doc["uid"]] for key, doc in resources.items() if key.endswith("6_image"))
    files = [*data_dir.glob(f"module_*/{newest}/*.dp_img16.*")]
    files += data_dir.glob(f"module_*/{newest}/*.dp_ph256.*")
    written = sorted(len(PffFile(path)) for path in files)
    assert counts == written
    assert min(written) > 0
    path, column = locate(resources["panoseti_m1_img16_image"])
    with open_reader("application/x-pff", path, column) as reader:
        images = reader.read(column)
        times = reader.read("/entry/index/time_ns")
    assert (np.diff(times) > 0).all()
    assert images.mean() > 20


def test_an_array_that_is_not_simulated_is_refused_before_a_run(RE: RunEngine, tmp_path) -> None:
    documents = []
    RE.subscribe(lambda name, doc: documents.append(name))
    with running_ioc("iocs.panoseti", "--source", "rundir", "--data-dir", str(tmp_path)) as ioc:
        panoseti = Panoseti(ioc.prefix, assets=tmp_path / "assets", name="panoseti")
        with pytest.raises(HardwareError, match="SIM:Running did not become 1"):
            RE(observe(panoseti, 3.0))
    assert not documents


def test_a_wrong_time_is_refused(RE: RunEngine) -> None:
    with pytest.raises(ConfigError, match="seconds = 0"):
        RE(observe(None, 0))

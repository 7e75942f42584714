"""A run of the simulated array, over Channel Access."""

import numpy as np
import pytest
from bluesky import RunEngine
from ioc_process import running_ioc

from devices.panoseti.array import Panoseti
from plans.panoseti.runs import observe
from skywright.errors import ConfigError
from skywright.files.readers import locate, open_reader
from skywright.instruments.panoseti.pff import PffFile


def test_a_simulated_run_has_each_frame_once(RE: RunEngine, tmp_path) -> None:
    documents = []
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    data_dir = tmp_path / "data"
    with running_ioc("iocs.panoseti", "--source", "sim", "--data-dir", str(data_dir)) as ioc:
        panoseti = Panoseti(ioc.prefix, assets=tmp_path / "assets", name="panoseti")
        for _ in range(2):  # the second run does not contain the first
            documents.clear()
            RE(observe(panoseti, 3.0))
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


def test_a_wrong_time_is_refused(RE: RunEngine) -> None:
    with pytest.raises(ConfigError, match="seconds = 0"):
        RE(observe(None, 0))

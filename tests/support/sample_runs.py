"""Stored runs for the tests of the catalog: a tiled server with raw and derived runs of all kinds.

All times and uids are fixed, so that the examples of the documentation can show output.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky_tiled_plugins import TiledWriter
from event_model import compose_run
from PIL import Image
from store.stack import Stack
from tiled.client.container import Container
from tiled.client.metadata_update import DELETE_KEY

T0 = 1_777_633_200.0  # 2026-05-01 11:00:00 UTC
DAY_S = 86_400.0
SCAN = "4f0c1d2e-52a1-4d3b-9d6f-0b8c6e1a7001"
FLY = "4f7a9b3c-1b7e-4c55-8a0d-6c2f9e4d7002"
DEAD = "b81e6d07-93c4-4f0a-b2d8-5a7e1c3f7003"
INTERRUPTED = "c0ffee42-6f1d-4e7b-a3c9-8d2b4f6e7004"
DERIVED_V1 = "d1a5e001-7c3e-4b9a-8f60-2e5d9c1b7005"
DERIVED_V2 = "d1a5e002-0e8f-4a6d-9b17-7f3c5a2e7006"
FRAMES = np.random.default_rng(7).integers(0, 256, (5, 48, 64), dtype=np.uint8)
FLY_FRAMES = np.random.default_rng(8).integers(0, 256, (6, 48, 64), dtype=np.uint8)
MATRICES = np.arange(5 * 30, dtype="<u2").reshape(5, 5, 6)
VECTORS = (np.arange(15, dtype="<f4") / 3).reshape(5, 3)
STATES = ["open", "closed", "", "überlastet", 'a "quoted", text']
OMEGA = np.array([0.0, 22.5, 45.0, 67.5, 90.0])
CURRENT = np.array([0.1, np.nan, 1 / 3, 1e-300, 0.5])
TIP_X = np.array([301.25, 302.5, np.nan, 299.0, 300.125])
KINDS = np.array([b"nylon", b"nylon", b"none", b"pin", b"nylon"], dtype="S8")


def key(
    dtype: str, dtype_numpy: str, device: str, shape: tuple[int, ...] = (), **more: Any
) -> dict:
    """Return a data key of `device`."""
    return {
        "source": f"SIM:{device}",
        "dtype": dtype,
        "dtype_numpy": dtype_numpy,
        "shape": list(shape),
        "object_name": device,
        **more,
    }


@dataclass
class RunMaker:
    """Compose the documents of one run and send them to tiled."""

    writer: TiledWriter
    directory: Path
    uid: str
    time: float
    metadata: Mapping[str, Any]
    bundles: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = compose_run(uid=self.uid, time=self.time, metadata=dict(self.metadata))
        self.writer("start", self.run.start_doc)

    def stream(self, name: str, keys: dict[str, dict], **descriptor: Any) -> None:
        """Open a stream."""
        devices: dict[str, list[str]] = {}
        for each, data_key in keys.items():
            devices.setdefault(data_key["object_name"], []).append(each)
        bundle = self.run.compose_descriptor(
            name=name, data_keys=keys, object_keys=devices, time=self.time, **descriptor
        )
        self.bundles[name] = bundle
        self.writer("descriptor", bundle.descriptor_doc)

    def event(self, name: str, seq_num: int, **data: Any) -> None:
        """Send an event, `seq_num` seconds after the start."""
        at = self.time + seq_num
        event = self.bundles[name].compose_event(
            data=data, timestamps=dict.fromkeys(data, at - 0.01), time=at, seq_num=seq_num
        )
        self.writer("event", event)

    def file(self, stream: str, datasets: dict[str, tuple[str, np.ndarray]]) -> Path:
        """Write an HDF5 file and refer to its datasets, one frame a stream datum."""
        path = self.directory / f"{self.uid}-{stream}.h5"
        with h5py.File(path, "w") as file:
            for dataset, values in datasets.values():
                file[dataset] = values
        bundle = self.bundles[stream]
        for data_key, (dataset, values) in datasets.items():
            resource = self.run.compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=f"file://localhost{path}",
                data_key=data_key,
                parameters={"dataset": dataset, "chunk_shape": [1, *values.shape[1:]]},
            )
            self.writer("stream_resource", resource.stream_resource_doc)
            for i in range(len(values)):
                datum = resource.compose_stream_datum(
                    indices={"start": i, "stop": i + 1},
                    seq_nums={"start": i + 1, "stop": i + 2},
                    descriptor=bundle.descriptor_doc,
                )
                self.writer("stream_datum", datum)
        return path

    def stop(self, after_s: float = 10.0, **stop: Any) -> None:
        """Close the run."""
        self.writer("stop", self.run.compose_stop(time=self.time + after_s, **stop))


def store_scan(writer: TiledWriter, directory: Path) -> None:
    """Store a step scan: every kind of column, frames in a file, a baseline, an event twice."""
    run = RunMaker(
        writer,
        directory,
        SCAN,
        T0,
        {
            "scan_id": 7,
            "plan_name": "scan",
            "plan_args": {"num": 5},
            "motors": ["omega"],
            "detectors": ["cam", "diode"],
            "hints": {"dimensions": [[["omega"], "primary"]]},
            "sample": "lysozyme A-1",
            "operator": "Zoë Müller",
            "proposal": "2026-112",
            "purpose": "alignment",
        },
    )
    run.stream(
        "primary",
        {
            "omega": key("number", "<f8", "omega", units="deg", precision=3),
            "diode_current": key("number", "<f8", "diode", units="uA"),
            "diode_counts": key("integer", "<i4", "diode"),
            "diode_state": key("string", "<U0", "diode"),
            "diode_ok": key("boolean", "|b1", "diode"),
            "diode_vector": key("array", "<f4", "diode", (3,), units="V"),
            "diode_matrix": key("array", "<u2", "diode", (5, 6)),
            "cam_image": key("array", "|u1", "cam", (48, 64), external="STREAM:"),
            "cam_frame_number": key("integer", "<i4", "cam", external="STREAM:"),
        },
        configuration={
            "cam": {
                "data": {"cam_exposure": 0.04, "cam_roi": [0, 0, 64, 48], "cam_mode": "Mono"},
                "timestamps": {"cam_exposure": T0, "cam_roi": T0, "cam_mode": T0},
                "data_keys": {
                    "cam_exposure": key("number", "<f8", "cam", units="s"),
                    "cam_roi": key("array", "<i8", "cam", (4,)),
                    "cam_mode": key("string", "<U4", "cam"),
                },
            }
        },
        hints={"omega": {"fields": ["omega"]}, "diode": {"fields": ["diode_current"]}},
    )
    for i in (0, 1, 1, 2, 3, 4):  # the second event again, as after a resume
        run.event(
            "primary",
            i + 1,
            omega=OMEGA[i],
            diode_current=CURRENT[i],
            diode_counts=i - 2,
            diode_state=STATES[i],
            diode_ok=i % 2 == 0,
            diode_vector=VECTORS[i],
            diode_matrix=MATRICES[i],
        )
    numbers = np.arange(100, 105, dtype="<i4")
    run.file(
        "primary",
        {
            "cam_image": ("/entry/data/data", FRAMES),
            "cam_frame_number": ("/entry/instrument/NDAttributes/NDArrayUniqueId", numbers),
        },
    )
    run.stream("baseline", {"energy": key("number", "<f8", "energy", units="keV")})
    run.event("baseline", 1, energy=12.4)
    run.event("baseline", 2, energy=12.4)
    run.stop(after_s=6.5)


def store_fly(writer: TiledWriter, directory: Path) -> None:
    """Store a run that has frames in a file and no events."""
    sample = {"name": "thaumatin", "mass_mg": 0.25}
    metadata = {"scan_id": 8, "plan_name": "watch_camera", "sample": sample}
    run = RunMaker(writer, directory, FLY, T0 + DAY_S, metadata)
    keys = {
        "cam_image": key("array", "|u1", "cam", (48, 64), external="STREAM:"),
        "cam_frame_time": key("number", "<f8", "cam", units="s", external="STREAM:"),
    }
    run.stream("primary", keys)
    times = T0 + DAY_S + np.arange(6) / 60
    run.file(
        "primary",
        {"cam_image": ("/entry/data/data", FLY_FRAMES), "cam_frame_time": ("/times", times)},
    )
    run.stop()


def store_derived(writer: TiledWriter, directory: Path, uid: str, time: float, ver: str) -> None:
    """Store an analysis of the step scan: a column file of pictures, and results."""
    metadata = {
        "plan_name": "loop",
        "raw_uid": SCAN,
        "raw_scan_id": 7,
        "purpose": "analysis",
        "sample": "lysozyme A-1",
        "analysis": {"name": "loop", "version": ver, "parameters": {"min_score": 0.3}},
    }
    run = RunMaker(writer, directory, uid, time, metadata)
    keys = {
        "tip_x": key("number", "<f8", "loop", units="px", external="STREAM:"),
        "kind": key("string", "|S8", "loop", external="STREAM:"),
    }
    run.stream("pictures", keys)
    run.file("pictures", {"tip_x": ("/tip_x", TIP_X), "kind": ("/kind", KINDS)})
    results = {
        "offset_um": key("number", "<f8", "loop", units="um"),
        "pictures": key("string", "<U0", "loop"),
    }
    run.stream("result", results)
    run.event("result", 1, offset_um=3.25, pictures="")
    sheet = directory / f"{uid}-sheet.png"
    Image.fromarray(FRAMES[0]).save(sheet)
    run.event("result", 2, offset_um=1.75, pictures=str(sheet))
    run.stop()


def store_unfinished(writer: TiledWriter, directory: Path) -> None:
    """Store a run without stop, and one whose stop says that its process died."""
    keys = {"diode_current": key("number", "<f8", "diode", units="uA")}
    dead = RunMaker(writer, directory, DEAD, T0 + 2 * DAY_S, {"scan_id": 9, "plan_name": "count"})
    dead.stream("primary", keys)
    dead.event("primary", 1, diode_current=0.5)
    metadata = {"scan_id": 7, "plan_name": "count", "sample_name": "insulin", "note": "AND so on"}
    run = RunMaker(writer, directory, INTERRUPTED, T0 + 3 * DAY_S, metadata)
    run.stream("primary", keys)
    run.event("primary", 1, diode_current=0.25)
    run.stop(exit_status="fail", reason="interrupted: the process that ran the plan is gone")


@dataclass(frozen=True)
class SampleStore:
    """A server that holds all of the above; nobody may change it."""

    client: Container
    uri: str
    api_key: str
    assets: Path


@cache
def shared_sample_store(config: pytest.Config) -> SampleStore:
    """Return the one server of the session with sample runs, started at the first call."""
    directory = Path(tempfile.mkdtemp(prefix="skywright-sample-store-"))
    config.add_cleanup(partial(shutil.rmtree, directory, ignore_errors=True))
    stack = Stack(directory)
    config.add_cleanup(stack.close)
    client, assets = stack.client(), directory / "assets"
    raw, analysis = client["raw"], client["analysis"]
    # Batches of one, so that the run without stop is seen; not in order of time on purpose.
    store_unfinished(TiledWriter(raw, batch_size=1), assets)
    store_fly(TiledWriter(raw), assets)
    store_scan(TiledWriter(raw), assets)
    # bluesky's writer notes what our ingester does with each array.
    raw[SCAN].update_metadata({"notes": DELETE_KEY}, drop_revision=True)
    store_derived(TiledWriter(analysis), assets, DERIVED_V2, T0 + DAY_S + 60, "2.0")
    store_derived(TiledWriter(analysis), assets, DERIVED_V1, T0 + 60, "1.1")
    return SampleStore(client, stack.uri, stack.key, assets)

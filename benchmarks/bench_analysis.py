"""Live analysis: latency, cost to the plan, throughput. ``python -m benchmarks.bench_analysis``.

Frames of 704 x 480 pixels of rendered mounts go to a SWMR file as a camera's do; the documents
are made here and go to `LiveAnalysis`, whose worker is a process of its own. Floors: the detector
alone, measured in the same run.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import event_model
import numpy as np
from bluesky import RunEngine
from numpy.typing import NDArray
from ophyd.sim import SynAxis

from benchmarks.options import argument_parser
from benchmarks.rows import report
from skywright.analysis.blocks import analyze_blocks
from skywright.analysis.frames import FileRows, FrameReader, FrameTable, KeyRows
from skywright.callbacks.derived import DerivedRun
from skywright.callbacks.live import LiveAnalysis
from skywright.callbacks.reports import Progress
from skywright.files.columns import Column, ColumnWriter
from skywright.instruments.loop.analysis import LoopDetection
from skywright.instruments.loop.detect import find_loop, warm_up
from skywright.instruments.loop.twin.render import Pose, render
from skywright.instruments.loop.twin.scene import random_scene

PICTURES, REPEATS, STORED = 24, 5, 480
RATE_HZ, SECONDS = 60.0, 4.0
SHAPE = (480, 704)
PATHS = {"cam_image": "/image", "cam_frame_number": "/number", "cam_frame_time": "/time"}

Pictures = list[NDArray[np.uint8]]


def draw_mounts() -> Pictures:
    """Render different mounts, gray."""
    rng = np.random.default_rng(7)
    found = []
    for number in range(PICTURES):
        kind = ("nylon", "mitegen")[number % 2]
        scene = random_scene(rng, kind=kind, width_px=SHAPE[1], height_px=SHAPE[0], color=False)
        found.append(render(scene, Pose(phi_deg=15.0 * number)).image)
    return found


class Camera:
    """Writes frames to a new file, and tells of each to a callback, as a session does."""

    def __init__(self, path: Path, tell: Callable[[str, Any], None]) -> None:
        self.tell = tell
        self.written = 0
        columns = [Column("/image", "|u1", SHAPE, rows_per_chunk=1), Column("/time", "<f8")]
        self.writer = ColumnWriter(path, columns, Column("/number", "<i8"))
        self.run = event_model.compose_run()
        stream = {"source": "bench", "dtype": "array", "external": "STREAM:", "shape": []}
        keys = {key: dict(stream) for key in PATHS}
        keys["cam_image"]["shape"] = list(SHAPE)
        self.descriptor = self.run.compose_descriptor(name="primary", data_keys=keys)
        self.resources = [
            self.run.compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=f"file://localhost{path}",
                data_key=key,
                parameters={"dataset": dataset},
            )
            for key, dataset in PATHS.items()
        ]
        tell("start", self.run.start_doc)
        tell("descriptor", self.descriptor.descriptor_doc)
        for each in self.resources:
            tell("stream_resource", each.stream_resource_doc)

    @property
    def uid(self) -> str:
        """Uid of the raw run."""
        return str(self.run.start_doc["uid"])

    def take(self, picture: NDArray[np.uint8]) -> float:
        """Write a frame and tell of it; return when it was flushed."""
        self.writer.append(self.written + 1, {"/image": picture, "/time": time.time()})
        self.writer.flush()
        flushed = time.perf_counter()
        for each in self.resources:
            datum = each.compose_stream_datum(
                indices={"start": self.written, "stop": self.written + 1},
                seq_nums={"start": self.written + 1, "stop": self.written + 2},
                descriptor=self.descriptor.descriptor_doc,
                validate=False,
            )
            self.tell("stream_datum", datum)
        self.written += 1
        return flushed

    def end(self) -> None:
        """Close the file and the run."""
        self.writer.close()
        self.tell("stop", self.run.compose_stop())


@contextmanager
def worker(directory: Path) -> Iterator[LiveAnalysis]:
    """Run a warm live analysis."""
    live = LiveAnalysis("loop_detection", journal=directory / "journal", assets=directory)
    live.wait_ready(120)
    try:
        yield live
    finally:
        live.close()


def latencies(live: LiveAnalysis, directory: Path, pictures: Pictures, run: int) -> list[float]:
    """Return frame flushed -> result here, ms, of each frame of a run at `RATE_HZ`."""
    flushed: list[float] = []
    arrived: dict[int, float] = {}

    def note(progress: Progress) -> None:
        now = time.perf_counter()
        for number in range(len(arrived), progress.reached):
            arrived[number] = now

    unsubscribe = live.subscribe(note)
    camera = Camera(directory / f"latency{run}.h5", live)
    pause, begin = threading.Event(), time.perf_counter()
    for number in range(int(RATE_HZ * SECONDS)):
        pause.wait(max(begin + number / RATE_HZ - time.perf_counter(), 0))
        flushed.append(camera.take(pictures[number % PICTURES]))
    live.wait(len(flushed), raw_uid=camera.uid, timeout_s=60)
    camera.end()
    live.wait(raw_uid=camera.uid, timeout_s=60)
    unsubscribe()
    return [1e3 * (arrived[i] - then) for i, then in enumerate(flushed)]


def document_costs(live: LiveAnalysis, directory: Path, picture: NDArray[np.uint8]) -> list[float]:
    """Return the time the session spends in the callback, us, of each stream datum."""
    costs: list[float] = []

    def tell(name: str, doc: Any) -> None:
        begin = time.perf_counter()
        live(name, doc)
        if name == "stream_datum":
            costs.append(1e6 * (time.perf_counter() - begin))

    camera = Camera(directory / "cost.h5", tell)
    for _ in range(300):
        camera.take(picture)
    camera.end()
    live.wait(raw_uid=camera.uid, timeout_s=60)
    return costs


def event_costs(live: LiveAnalysis) -> tuple[float, list[float]]:
    """Return us an event of a bare engine, and us in the callback of each event of a plan."""
    engine, motor = RunEngine(), SynAxis(name="m")
    costs: list[float] = []

    def timed(name: str, doc: Any) -> None:
        begin = time.perf_counter()
        live(name, doc)
        if name == "event":
            costs.append(1e6 * (time.perf_counter() - begin))

    bare = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        engine(bp.count([motor], num=200))
        bare.append(1e6 * (time.perf_counter() - begin) / 200)
        token = engine.subscribe(timed)
        engine(bp.count([motor], num=200))
        engine.unsubscribe(token)
    return statistics.median(bare), costs


def throughput(directory: Path, pictures: Pictures) -> tuple[float, float]:
    """Return frames/s from a file to a derived run, and of the detector alone on the same file."""
    path = directory / "stored.h5"
    camera = Camera(path, lambda name, doc: None)
    for number in range(STORED):
        camera.take(pictures[number % PICTURES])
    camera.end()
    tracks = {}
    for key, dataset in PATHS.items():
        tracks[key] = KeyRows()
        tracks[key].add(FileRows(str(path), dataset, 0, STORED, 1))
    image, number, when = tracks.values()
    table = FrameTable(in_files={"image": image}, identity=number, time=when)

    def analyzed() -> float:
        begin = time.perf_counter()
        emit = lambda name, doc: None  # noqa: E731
        derived = DerivedRun(LoopDetection(), camera.run.start_doc, emit, directory)
        with FrameReader(table) as reader:
            derived.absorb(*analyze_blocks(LoopDetection(), reader.batches(0, STORED)))
        derived.close()
        return STORED / (time.perf_counter() - begin)

    def alone() -> float:
        begin = time.perf_counter()
        with FrameReader(table) as reader:
            for batch in reader.batches(0, STORED):
                for picture in batch["image"]:
                    find_loop(picture)
        return STORED / (time.perf_counter() - begin)

    pairs = [(analyzed(), alone()) for _ in range(REPEATS)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def main() -> int:
    """Print the rows; return 0."""
    argument_parser(__doc__).parse_args()
    warm_up()
    pictures = draw_mounts()
    detect = []
    for picture in pictures * REPEATS:
        begin = time.perf_counter()
        find_loop(picture)
        detect.append(1e3 * (time.perf_counter() - begin))
    floor = statistics.median(detect)
    with tempfile.TemporaryDirectory() as where, worker(directory := Path(where)) as live:
        rounds = [latencies(live, directory, pictures, run) for run in range(REPEATS)]
        median = statistics.median(statistics.median(each) for each in rounds)
        p99 = min(float(np.percentile(each, 99)) for each in rounds)
        name = "frame flushed -> result, 60 Hz"
        report(name, median, "ms", floor=floor, goal=500.0, p99_best_of_5=p99)
        costs = document_costs(live, directory, pictures[0])
        median, p99 = statistics.median(costs), float(np.percentile(costs, 99))
        report("one stream datum in the session", median, "us", floor=2.0, goal=100.0, p99=p99)
        bare, costs = event_costs(live)
        median, p99 = statistics.median(costs), float(np.percentile(costs, 99))
        report("an event of a plan", median, "us", floor=bare, goal=100.0, p99=p99)
        rate, alone = throughput(directory, pictures)
        report("stored frames to derived run", rate, "frames/s", floor=alone, goal_here=0.9 * alone)
    return 0


if __name__ == "__main__":
    sys.exit(main())

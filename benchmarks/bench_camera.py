"""Camera to HDF5: rate, losses, age. ``python -m benchmarks.bench_camera [--seconds 60]``.

Pictures are 704x480 JPEGs of the twin. The push rows run the IOC as users do, in a process of its
own, and upload over two connections; the file is read here while it is written.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from pathlib import Path

import h5py
import numpy as np

from benchmarks.options import argument_parser
from benchmarks.processes import own_channel_access, running
from benchmarks.rows import report
from skywright.acquire.source import Report
from skywright.files.columns import ColumnReader
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.layouts import IDENTITY, TIME
from skywright.instruments.loop.picture import decode
from skywright.instruments.loop.sources import Deliver, SourceFrame
from skywright.instruments.loop.sources.sim import SimulatedCamera
from skywright.instruments.loop.twin.render import Pose

SHAPE = (480, 704)
FPS, CONNECTIONS, BURST, REPEATS = 60, 2, 300, 5


class Burst:
    """A source that delivers all it has at once."""

    name, size, period_s = "burst", SHAPE[::-1], 0.0
    lost: Mapping[str, int] = {}

    def __init__(self, pictures: list[bytes]) -> None:
        self.pictures = pictures

    def start(self, deliver: Deliver, report: Report) -> None:
        """Deliver the burst."""
        for number in range(BURST):
            data = self.pictures[number % len(self.pictures)]
            deliver(SourceFrame(number, time.time(), data=data))

    def stop(self) -> None:
        """Nothing to stop."""

    close = stop

    def set_period(self, seconds: float) -> None:
        """Take no notice."""


def twin_pictures() -> list[bytes]:
    """Return 30 JPEGs of a turning loop."""
    camera = SimulatedCamera(seed=1, size=SHAPE[::-1], kind="nylon")
    pictures: list[bytes] = []
    enough = threading.Event()

    def keep(frame: SourceFrame) -> None:
        pictures.append(frame.data or b"")
        if len(pictures) >= 30:
            enough.set()

    camera.prepare([Pose()])
    camera.start(keep, lambda message: None)
    assert enough.wait(60)
    camera.close()
    return pictures


def rate(work: Callable[[Path], None]) -> float:
    """Return pictures per second, the median of five bursts into new directories."""
    rounds = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as directory:
            began = time.perf_counter()
            work(Path(directory))
            rounds.append(BURST / (time.perf_counter() - began))
    return float(np.median(rounds))


def record(pictures: list[bytes], directory: Path) -> None:
    """Decode and record a burst with the camera's owner."""
    camera = Camera(Burst(pictures))
    camera.start_capture(directory / "a.h5")
    assert camera.acquire(BURST).done.wait(60)
    camera.close()
    assert sum(camera.state().lost.values()) == 0


def append_only(image: np.ndarray, directory: Path) -> None:
    """Append decoded pictures to one dataset: what h5py alone needs."""
    with h5py.File(directory / "a.h5", "w", libver="latest") as file:
        shape = {"shape": (0, *SHAPE), "maxshape": (None, *SHAPE), "chunks": (1, *SHAPE)}
        data = file.create_dataset("data", dtype="u1", **shape)
        for row in range(BURST):
            data.resize(row + 1, axis=0)
            data[row] = image


def write_only(image: np.ndarray, directory: Path) -> None:
    """Write the bytes of decoded pictures: what the disk alone needs."""
    with (directory / "a.raw").open("wb", buffering=0) as file:
        for _ in range(BURST):
            file.write(image.data)


def push(port: int, pictures: list[bytes], seconds: float) -> int:
    """Upload at `FPS` over `CONNECTIONS`; return how many were answered with 200."""
    total, answered = round(FPS * seconds), []
    began = time.monotonic()

    def send(first: int) -> None:
        http = HTTPConnection("127.0.0.1", port, timeout=10)
        for number in range(first, total, CONNECTIONS):
            pause = began + number / FPS - time.monotonic()
            if pause > 0:
                threading.Event().wait(pause)
            body = pictures[number % len(pictures)]
            http.request("POST", "/", body, {"Content-Type": "image/jpeg"})
            answer = http.getresponse()
            answer.read()
            answered.append(answer.status)
        http.close()

    senders = [threading.Thread(target=send, args=(i,)) for i in range(CONNECTIONS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return answered.count(200)


def ages(path: Path, over: threading.Event) -> np.ndarray:
    """Read a file while it is written; return each picture's age (ms) when it became visible."""
    found: list[float] = []
    with ColumnReader(path, IDENTITY) as reader:
        last = False
        while not last:
            last = over.wait(0.002)
            count = reader.count()
            if count > len(found):
                now = time.time()
                found += list(now - reader.read(TIME, len(found), count))
    return np.array(found) * 1e3


def push_through_ioc(port: int, pictures: list[bytes], seconds: float) -> dict[str, float]:
    """Run the IOC, upload into a recording, and count."""
    import epics

    where = ("--prefix", "BENCH:", "--port", str(port), "--size", "704x480")
    with running("iocs.axis", *where, "--source", "push", "--listen", "0") as ready:
        with tempfile.TemporaryDirectory() as directory:
            epics.caput("BENCH:HDF1:FilePath", directory, wait=True, timeout=5)
            epics.caput("BENCH:HDF1:Capture", 1, wait=True, timeout=5)
            path = Path(epics.caget("BENCH:HDF1:FullFileName_RBV", as_string=True))
            epics.caput("BENCH:cam1:Acquire", 1)
            while not epics.caget("BENCH:cam1:Acquire_RBV"):
                threading.Event().wait(0.01)
            over = threading.Event()
            seen: list[np.ndarray] = []
            reader = threading.Thread(target=lambda: seen.append(ages(path, over)))
            reader.start()
            began = time.monotonic()
            received = push(ready["listen"], pictures, seconds)
            took = time.monotonic() - began
            epics.caput("BENCH:cam1:Acquire", 0, wait=True, timeout=10)
            over.set()
            reader.join()
        stored = len(seen[0])
        return {
            "per_s": stored / took,
            "received": received,
            "stored": stored,
            "lost": round(FPS * seconds) - stored,
            "p50": float(np.percentile(seen[0], 50)),
            "p99": float(np.percentile(seen[0], 99)),
        }


def main() -> int:
    """Print the rows; return 0."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the pushed stream")
    seconds = parser.parse_args().seconds
    port, pictures = own_channel_access(), twin_pictures()
    image = decode(pictures[0])
    disk = rate(lambda directory: write_only(image, directory))
    h5 = rate(lambda directory: append_only(image, directory))
    began = time.perf_counter()
    for data in pictures:
        decode(data)
    decoding = len(pictures) / (time.perf_counter() - began)
    # One after the other: decode, then append.
    floor = 1.0 / (1.0 / h5 + 1.0 / decoding)
    name = "camera to HDF5, 704x480 JPEGs decoded, files kept, one burst"
    best = rate(lambda directory: record(pictures, directory))
    apart = {"disk_write": disk, "h5py_append": h5, "decode": decoding}
    report(name, best, "1/s", floor=floor, goal=FPS, **apart)
    pushed = push_through_ioc(port, pictures, seconds)
    counts = {key: pushed[key] for key in ("received", "stored", "lost")}
    name = f"camera pushed over {CONNECTIONS} connections at {FPS}/s for {seconds:g} s, stored"
    report(name, pushed["per_s"], "1/s", floor=FPS, goal=FPS, **counts)
    name = "camera picture received -> visible in the file, median"
    report(name, pushed["p50"], "ms", floor=1e3 / floor, goal=100.0, p99=pushed["p99"])
    return 0


if __name__ == "__main__":
    sys.exit(main())

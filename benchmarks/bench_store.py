"""The store: cost to the plan, ingest rate, lag of readers. ``python -m benchmarks.bench_store``.

Everything is real: a tiled server and an ingester in processes of their own, the RunEngine here.
References are what the stock ``TiledWriter`` costs (measured on two cores, server in its own
process); floors are measured in the same run. ``--quick`` takes fewer repetitions.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky import RunEngine
from bluesky_tiled_plugins import TiledWriter
from event_model import compose_run
from ophyd import Component, Device, Signal

from benchmarks.options import argument_parser
from benchmarks.rows import report
from skywright.callbacks.journal import Journal
from skywright.processes.ports import free_port
from skywright.store.client import connect, ensure_containers

COLUMNS = 6
ROWS = 10_000


class Store:
    """A store in a directory of its own with its two processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.start("server", "--port", str(self.port))
        self.uri = f"http://127.0.0.1:{self.port}"
        self.client = connect(self.uri, (directory / "tiled" / "api_key").read_text())
        ensure_containers(self.client)
        self.start("ingester", "--uri", self.uri)

    def start(self, name: str, *arguments: str) -> None:
        """Start one of the two processes and await its ready line."""
        command = [sys.executable, "-m", f"skywright.store.{name}"]
        process = subprocess.Popen(
            [*command, "--directory", str(self.directory), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert "ready" in process.stdout.readline(), f"{name} did not start"
        self.processes[name] = process

    def done(self, uid: str) -> float:
        """Wait for the run in the catalog; return the time it got there."""
        path = self.directory / "journal" / "done" / f"{uid}.jsonl"
        pause = threading.Event()
        while not path.exists():
            pause.wait(0.005)
        return time.perf_counter()


@contextmanager
def store() -> Iterator[Store]:
    """Run a store for the time of a with block."""
    with tempfile.TemporaryDirectory() as directory:
        running = Store(Path(directory))
        try:
            yield running
        finally:
            for process in running.processes.values():
                process.terminate()
                process.wait(timeout=10)


class Columns(Device):
    """A device with COLUMNS numbers."""

    s0, s1, s2, s3, s4, s5 = (Component(Signal, value=i + 0.5) for i in range(COLUMNS))


def plan(events: int, delay_s: float = 0.0) -> Any:
    """Yield a run of `events` events with COLUMNS columns."""
    device = Columns(name="d")

    @bpp.run_decorator()
    def inner() -> Any:
        for _ in range(events):
            yield from bps.trigger_and_read([device])
            if delay_s:
                yield from bps.sleep(delay_s)

    return inner()


def timed_events(RE: RunEngine, events: int, delay_s: float = 0.0) -> np.ndarray:
    """Run the plan; return the times between its events, s."""
    times: list[float] = []
    token = RE.subscribe(lambda name, doc: times.append(time.perf_counter()), "event")
    RE(plan(events, delay_s))
    RE.unsubscribe(token)
    return np.diff(times)


def cost_of_an_event(running: Store, repeats: int, events: int = 2000) -> None:
    """Compare a bare engine with one that journals, in turn, the store at work."""
    bare, journaled = RunEngine(), RunEngine()
    journal = Journal(running.directory / "journal", journaled)
    calls: list[float] = []

    def timed(name: str, doc: Any) -> None:
        began = time.perf_counter()
        journal(name, doc)
        if name == "event":
            calls.append(time.perf_counter() - began)

    journaled.subscribe(timed)
    for engine in (bare, journaled):
        timed_events(engine, 100)  # warm
    added, floors, slow, typical = [], [], [], []
    for _ in range(repeats):
        floor = float(np.median(timed_events(bare, events)))
        calls.clear()
        added.append(float(np.median(timed_events(journaled, events))) - floor)
        floors.append(floor)
        slow.append(float(np.percentile(calls, 99)))
        typical.append(statistics.median(calls))
    floor_ms = 1e3 * statistics.median(floors)
    report(
        "event: cost to the plan above a bare engine's",
        1e3 * statistics.median(added),
        "ms",
        goal=0.1,
        reference=2.7,
    )
    report("event: bare engine, for comparison", floor_ms, "ms")
    report(
        "event: time in the journal, median", 1e3 * statistics.median(typical), "ms",
        floor=json_floor_ms(),
    )  # fmt: skip
    report("event: time in the journal, p99, best", 1e3 * min(slow), "ms", goal=2.0, reference=5.7)


def json_floor_ms() -> float:
    """Return what the JSON text of such an event costs in C, without numpy or a file."""
    data = {f"s{i}": i + 0.5 for i in range(COLUMNS)}
    event = {"uid": "0" * 36, "time": 1e9, "data": data, "timestamps": data, "seq_num": 1,
             "filled": {}, "descriptor": "0" * 36}  # fmt: skip
    began = time.perf_counter()
    for _ in range(2000):
        json.dumps(["event", event])
    return 1e3 * (time.perf_counter() - began) / 2000


class Producer:
    """A run that is journaled without an engine."""

    def __init__(self, running: Store) -> None:
        self.journal = Journal(running.directory / "journal")
        self.run = compose_run()
        self.uid = str(self.run.start_doc["uid"])
        self.journal("start", self.run.start_doc)
        keys: Any = {
            f"s{i}": {"dtype": "number", "shape": [], "source": "bench"} for i in range(COLUMNS)
        }
        self.bundle = self.run.compose_descriptor(name="primary", data_keys=keys)
        self.journal("descriptor", self.bundle.descriptor_doc)

    def event(self, number: int) -> None:
        """Journal one event."""
        data = {f"s{i}": number + i / 7 for i in range(COLUMNS)}
        times = dict.fromkeys(data, time.time())
        event = self.bundle.compose_event(data=data, timestamps=times, validate=False)
        self.journal("event", event)

    def stop(self) -> None:
        """Close the run."""
        self.journal("stop", self.run.compose_stop())


def ingest_rate(running: Store, repeats: int) -> None:
    """Journal ROWS events as fast as they come; time until the run is checked and archived."""
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        producer = Producer(running)
        for number in range(ROWS):
            producer.event(number)
        producer.stop()
        rates.append(ROWS / (running.done(producer.uid) - began))
    report(
        f"ingest: {ROWS} events of {COLUMNS} columns, first document to checked run",
        statistics.median(rates),
        "events/s",
        goal=8000.0,
        reference=2400.0,
    )


def small_run(running: Store, repeats: int) -> None:
    """Time a run of five events, first document to the archive, and one by bluesky's writer."""
    ours, stock = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        producer = Producer(running)
        for number in range(5):
            producer.event(number)
        producer.stop()
        ours.append(running.done(producer.uid) - began)
        stock.append(stock_run(running.client))
    reference = 1e3 * statistics.median(stock)
    report(
        "ingest: a tiny run, first document to the stored run; bluesky's TiledWriter in turn",
        1e3 * statistics.median(ours),
        "ms",
        goal_here=2.0 * reference,
        reference=reference,
    )


def stock_run(client: Any) -> float:
    """Write the same tiny run with bluesky's TiledWriter; return how long it took, s."""
    began = time.perf_counter()
    writer = TiledWriter(client["raw"])
    run = compose_run()
    writer("start", run.start_doc)
    keys: Any = {
        f"s{i}": {"dtype": "number", "shape": [], "source": "bench"} for i in range(COLUMNS)
    }
    bundle = run.compose_descriptor(name="primary", data_keys=keys)
    writer("descriptor", bundle.descriptor_doc)
    for number in range(5):
        data = {f"s{i}": number + i / 7 for i in range(COLUMNS)}
        event = bundle.compose_event(data=data, timestamps=dict.fromkeys(data, time.time()))
        writer("event", event)
    writer("stop", run.compose_stop())
    return time.perf_counter() - began


def request_time(running: Store, repeats: int) -> None:
    """Time a request for a stored run's metadata, and one that looks up no node."""
    producer = Producer(running)
    producer.event(0)
    producer.stop()
    running.done(producer.uid)
    node = running.client["raw"][producer.uid]
    rows = {"metadata of a run": node.uri, "description of the server": f"{running.uri}/api/v1/"}
    for name, address in rows.items():
        times = []
        for _ in range(20 * repeats):
            began = time.perf_counter()
            node.context.http_client.get(address).raise_for_status()
            times.append(time.perf_counter() - began)
        report(f"a request: {name}", 1e3 * statistics.median(times), "ms")


def reader_lag(running: Store, rate_hz: float, seconds: float) -> None:
    """Subscribe to a run; measure how old its events are when they arrive."""
    producer = Producer(running)
    producer.event(0)
    node = wait_for(lambda: running.client["raw"][producer.uid].base["primary"].base["internal"])
    lags: list[float] = []

    def arrived(update: Any) -> None:
        now = time.time()
        lags.extend(now - update.data()["time"])

    subscription = node.subscribe()
    subscription.new_data.add_callback(arrived)
    subscription.start_in_thread()
    count = max(int(rate_hz * seconds), 8)
    pause = threading.Event()
    pause.wait(0.5)
    begin = time.perf_counter()
    for number in range(1, count + 1):
        pause.wait(max(begin + number / rate_hz - time.perf_counter(), 0))
        producer.event(number)
    deadline = time.monotonic() + 10
    while len(lags) < count and time.monotonic() < deadline:
        pause.wait(0.01)
    subscription.disconnect()
    producer.stop()
    running.done(producer.uid)
    assert len(lags) >= count, f"{len(lags)} of {count} events arrived"
    for percent, goal in ((50, None), (95, 150.0)):
        report(
            f"readers: behind at {rate_hz:g}/s, p{percent}",
            1e3 * float(np.percentile(lags, percent)),
            "ms",
            goal=goal,
        )


def wait_for(get: Callable[[], Any]) -> Any:
    """Return what `get` gives once it is there."""
    pause = threading.Event()
    while True:
        try:
            return get()
        except KeyError:
            pause.wait(0.02)


def tiled_killed(running: Store, repeats: int) -> None:
    """Kill the server in the middle of a run; measure the largest gap between two events."""
    RE = RunEngine()
    RE.subscribe(Journal(running.directory / "journal", RE))
    uids: list[str] = []
    RE.subscribe(lambda name, doc: uids.append(doc["uid"]), "start")
    quiet = [float(timed_events(RE, 300, 0.005).max()) for _ in range(repeats)]
    gaps = []
    for _ in range(repeats):
        server = running.processes["server"]
        killer = threading.Timer(0.8, server.kill)
        killer.start()
        gaps.append(float(timed_events(RE, 300, 0.005).max()))
        killer.join()
        server.wait()
        running.start("server", "--port", str(running.port))
    report(
        "tiled killed in mid-run: largest gap in the plan, best", 1e3 * min(gaps), "ms",
        goal=100.0, floor=1e3 * min(quiet),
    )  # fmt: skip
    report(
        "tiled killed in mid-run: largest gap in the plan, median",
        1e3 * statistics.median(gaps), "ms", goal=100.0, reference=72_000.0,
    )  # fmt: skip
    lost = double = 0
    for uid in uids:
        running.done(uid)
        table = running.client["raw"][uid].base["primary"].base["internal"].read(["seq_num"])
        found = table["seq_num"].tolist()
        double += len(found) - len(set(found))
        lost += len(set(range(1, 301)) - set(found))
    report("tiled killed in mid-run: events lost", lost, "events", goal=0)
    report("tiled killed in mid-run: events twice", double, "events", goal=0)


def main() -> int:
    """Run all of it."""
    parser = argument_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    quick = parser.parse_args().quick
    repeats = 2 if quick else 5
    with store() as running:
        cost_of_an_event(running, repeats)
        ingest_rate(running, repeats)
        small_run(running, repeats)
        request_time(running, repeats)
        for rate_hz in (1, 10, 100):
            reader_lag(running, rate_hz, 3 if quick else 20)
        tiled_killed(running, repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())

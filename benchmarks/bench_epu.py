"""EPU trees: reading, rescans, and recording as files come, ``python -m benchmarks.bench_epu``.

Trees of 10,000 and 50,000 micrographs are written first; ``--small`` divides both by ten. Each
reading is a process of its own, as ``skywright epu parse dir --json`` is; the floor reads the same
files and does nothing with them, and takes turns with it. Rounds' best times are reported.
"""

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.options import argument_parser
from benchmarks.rows import report
from skywright.instruments.epu.database import open_database
from skywright.instruments.epu.scan import walk
from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.twin.writer import visit_files, write_visit
from skywright.instruments.epu.watch.changes import changed_files
from skywright.instruments.epu.watch.watcher import Watcher

ROUNDS = 3
RATE_HZ, LATENCY_S = 200, 10.0
HOLES = 143
"""Of a square: with 7 micrographs a hole, 1,000 a square."""


def make_tree(count: int, directory: Path) -> int:
    """Write a visit of about `count` micrographs; return how many there are."""
    imaged = max(1, count // 1000)
    visit = plan_visit(seed=1, squares=max(200, imaged), imaged=imaged, holes=HOLES)
    write_visit(visit, directory)
    return len(visit.micrographs())


def parse(directory: Path, jobs: int) -> tuple[float, int, float]:
    """Parse in a process of its own.

    Returns
    -------
    tuple of float, int, float
        Seconds, peak memory of the process tree in bytes, seconds of processor time: on a busy
        machine the last says more than the first.
    """
    command = [sys.executable, "-m", "skywright.cli", "epu", "parse", "dir", str(directory)]
    command += ["--json", "--jobs", str(jobs)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        peak = _peak(process)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed")
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, peak, used


def _peak(process: "subprocess.Popen[bytes]") -> int:
    """Return the largest sum of the memories of a process and its children."""
    import psutil

    peak = 0
    pause = threading.Event()
    while process.poll() is None:
        total = 0
        try:
            root = psutil.Process(process.pid)
            for each in (root, *root.children(recursive=True)):
                total += each.memory_info().rss
        except psutil.NoSuchProcess:
            pass
        peak = max(peak, total)
        pause.wait(0.02)
    return peak


def read_all(directory: Path) -> float:
    """Read every manifest and .dm; return seconds."""
    began = time.perf_counter()
    for path, file in walk(directory):
        if path.endswith((".xml", ".dm")):
            descriptor = os.open(file.path, os.O_RDONLY)
            while os.read(descriptor, 1 << 20):
                pass
            os.close(descriptor)
    return time.perf_counter() - began


def best(measure: Callable[[], float]) -> float:
    """Return the least of some rounds."""
    return min(measure() for _ in range(ROUNDS))


def bench_parse(small: Path, large: Path, counts: tuple[int, int]) -> None:
    """Report reading times and memory."""
    times: dict[Path, float] = {}
    for directory, count, goal in ((small, counts[0], 1.5), (large, counts[1], 8.0)):
        rounds = [(parse(directory, 1), read_all(directory)) for _ in range(ROUNDS)]
        seconds = times[directory] = min(one[0][0] for one in rounds)
        floor = min(one[1] for one in rounds)
        name = f"epu parse dir, {count} micrographs, one process"
        report(
            name,
            seconds,
            "s",
            goal=goal * count / (10_000 if goal < 2 else 50_000),
            floor=floor,
            processor_s=round(min(one[0][2] for one in rounds), 3),
        )
        if directory == large:
            peak = max(one[0][1] for one in rounds)
            report("epu parse dir, peak memory", peak / (1 << 20), "MiB", goal=200.0)
    growth = times[large] / counts[1] / (times[small] / counts[0])
    report("epu parse dir, time per file, large to small", growth, "", goal=1.3)
    pairs = [(parse(large, 1)[0], parse(large, 2)[0]) for _ in range(ROUNDS)]
    gain = max(one / two for one, two in pairs)
    report("epu parse dir, two processes against one", gain, "", goal=1.6)


def bench_rescan(directory: Path) -> None:
    """Report a scan of a tree in which nothing has changed."""
    known = {}
    for path, file in walk(directory):
        if path.endswith((".xml", ".dm")):
            status = file.stat()
            known[path] = (status.st_size, status.st_mtime_ns)

    def rescan() -> float:
        began = time.perf_counter()
        if list(changed_files(directory, known)):
            raise RuntimeError("the tree has changed")
        return time.perf_counter() - began

    def look() -> float:
        began = time.perf_counter()
        waiting = [str(directory)]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir():
                        waiting.append(entry.path)
                    else:
                        entry.stat()
        return time.perf_counter() - began

    report(f"epu rescan, {len(known)} files", best(rescan), "s", goal=0.3, floor=best(look))


def bench_latency(directory: Path) -> None:
    """Report file finished -> committed, at `RATE_HZ`."""
    root = directory / "live"
    root.mkdir()
    writes = list(visit_files(plan_visit(seed=2, squares=4, imaged=2, holes=HOLES)))
    others = [write for write in writes if "/Data/" not in write.path]
    micrographs = [write for write in writes if "/Data/" in write.path]
    finished: dict[str, float] = {}
    committed: dict[str, float] = {}

    def note(outcome: object) -> None:
        now = time.perf_counter()
        for event in outcome.events:  # type: ignore[attr-defined]
            committed.setdefault(event.path, now)

    for write in (*others, *micrographs):
        (root / write.path).parent.mkdir(parents=True, exist_ok=True)
    database = open_database(directory / "live.sqlite", durable=False)
    watcher = Watcher(root, database, on_commit=note)
    thread = threading.Thread(target=watcher.run)
    thread.start()
    for write in others:
        (root / write.path).write_bytes(write.content)
    pause = threading.Event()
    pause.wait(2.0)
    began = time.perf_counter()
    wanted = micrographs[: int(RATE_HZ * LATENCY_S)]
    for number, write in enumerate(wanted):
        delay = began + number / RATE_HZ - time.perf_counter()
        if delay > 0:
            pause.wait(delay)
        (root / write.path).write_bytes(write.content)
        finished[write.path] = time.perf_counter()
    pause.wait(2.0)
    watcher.stop()
    thread.join()
    database.close()
    delays = sorted(committed[path] - finished[path] for path in finished)
    p95, longest = delays[int(0.95 * len(delays))], delays[-1]
    name = f"epu file finished -> committed, {RATE_HZ}/s"
    report(f"{name}, p95", 1000 * p95, "ms", goal=15.0, recorded=len(delays), written=len(wanted))
    report(f"{name}, longest", 1000 * longest, "ms", goal=250.0)


def main() -> None:
    """Run all, or the last alone."""
    parser = argument_parser(__doc__)
    parser.add_argument("--live", action="store_true", help="measure recorded files alone")
    parser.add_argument("--small", action="store_true", help="a tenth of the micrographs")
    options = parser.parse_args()
    if options.live:
        with tempfile.TemporaryDirectory(prefix="skywright-bench-") as name:
            bench_latency(Path(name))
        return
    divide = 10 if options.small else 1
    with tempfile.TemporaryDirectory(prefix="skywright-bench-") as name:
        base = Path(name)
        counts = (
            make_tree(10_000 // divide, base / "small"),
            make_tree(50_000 // divide, base / "large"),
        )
        bench_parse(base / "small", base / "large", counts)
        bench_rescan(base / "large")
        bench_latency(base)


if __name__ == "__main__":
    main()

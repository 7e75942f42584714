"""A minute of pictures at 60/s over two connections, the search as fast as it is and slowed."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.dcss import Dcss
from support.derived import Derived, read_runs
from support.dhs import OPERATIONS
from support.loop_pictures import turned

RATE, SECONDS = 60.0, 60.0
GROWTH_BYTES = 20e6
SLOWED_DHS = Path(__file__).parents[1] / "support" / "slowed_dhs.py"


@contextmanager
def slowed_dhs(hub: Dcss, times: float, directory: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Run a DHS in a process of its own; yields its receiver's port and the process."""
    process = subprocess.Popen(
        [sys.executable, str(SLOWED_DHS), str(hub.port), str(times), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SKYWRIGHT_SUPERVISED": "1"},
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())["ready"]
        yield ready["receiver_port"], psutil.Process(process.pid)
    finally:
        process.kill()
        process.communicate()


def upload(port: int, pictures: list[bytes], begin: float, offset: int, count: int) -> None:
    """Upload every second picture, each at its time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for i in range(offset, count, 2):
        threading.Event().wait(max(0.0, begin + i / RATE - time.monotonic()))
        # A comment behind the end makes each file one of its own, as noise would.
        body = pictures[i % len(pictures)] + b"%08d" % i
        connection.request("POST", "/", body, {"Content-Type": "image/jpeg"})
        assert connection.getresponse().read() == b""
    connection.close()


def push(port: int, pictures: list[bytes], count: int) -> None:
    begin = time.monotonic() + 0.1
    threads = [
        threading.Thread(target=upload, args=(port, pictures, begin, offset, count))
        for offset in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def await_raw(journal: Path, runs: int) -> Derived:
    """Return the last raw run once all runs have ended."""
    deadline = time.monotonic() + 60
    while True:
        found = read_runs(journal)
        if len(found) == 2 * runs and all(run.stop is not None for run in found):
            return [run for run in found if "raw_uid" not in run.start][-1]
        assert time.monotonic() < deadline, "the runs do not end"
        threading.Event().wait(0.2)


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("times", [1.0, 10.0])
def test_a_minute_at_60_per_second(times: float, tmp_path: Path) -> None:
    pictures = [turned(6.0 * i).jpeg() for i in range(60)]
    count = int(RATE * SECONDS)
    hub = Dcss()
    with (
        slowed_dhs(hub, times, tmp_path) as (port, process),
        hub.connected(*OPERATIONS) as link,
    ):
        for handle, n in (("1.1", 240), ("1.2", count)):
            before = process.memory_info().rss
            link.start("collectLoopImages", handle)
            link.until(lambda handle=handle: link.updates(handle))
            most, ended = [before], threading.Event()

            def watch(most: list[int] = most, ended: threading.Event = ended) -> None:
                while not ended.wait(0.2):
                    most.append(process.memory_info().rss)

            watcher = threading.Thread(target=watch)
            watcher.start()
            push(port, pictures, n)
            link.start("stopCollectLoopImages", f"2.{handle}")
            link.until(lambda handle=handle: link.completions(handle), limit_s=120)
            ended.set()
            watcher.join()
        assert link.reply("1.2") == "normal done"
        rows = link.rows("1.2")
        note = link.notes()[-1]
        raw = await_raw(tmp_path / "journal", runs=2)
    growth = max(most) - before
    skipped = sum(row == ["failed", "skipped"] for row in rows.values())
    course = [round((size - before) / 1e6, 1) for size in most[:: len(most) // 10]]
    print({"times": times, "growth_mb": growth / 1e6, "course_mb": course, "skipped": skipped})
    print(note)
    assert list(rows) == list(range(count))
    assert len(raw.columns()["axis_frame_number"]) == 8 * count, "pictures lost in the file"
    if times > 1:  # what waits is bounded; a search that keeps up works in more memory, not growing
        assert growth < GROWTH_BYTES
    assert f"{count} received" in note
    assert f"{skipped} skipped" in note
    assert (skipped > 0) == (times > 1)
    hub.close()

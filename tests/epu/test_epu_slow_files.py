"""Files that grow for long, and clocks that are wrong: all of it is recorded, once."""

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from epu_trees import comparable, read_document, written
from test_epu_watch import Following, recorded

from skywright.instruments.epu.database import open_database
from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.watch.changes import changed_files
from skywright.instruments.epu.watch.watcher import Watcher

PIECES = 30
TIMES_S = 978307200, 4102444800, 10420000000  # 2001, 2100, and 2300: more than 64 bits of ns


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return written(plan_visit(3, 1, 4, imaged=2, holes=2), tmp_path / "data")


@pytest.fixture
def following(root: Path, tmp_path: Path):
    """A watcher of the visit that has read all of it."""
    database = open_database(tmp_path / "entities.sqlite", durable=False)
    found = Following(root, database, rescan=0)
    found.wait_for(found.caught_up)
    yield found
    found.stop()
    database.close()


def check(following: Following, root: Path) -> None:
    following.wait_for(following.caught_up)
    found = recorded(following.watcher.database, root)
    assert comparable(found) == comparable(read_document(root))
    assert following.watcher.unreadable == {}


@pytest.mark.parametrize(
    "seconds", [2.0, pytest.param(60.0, marks=[pytest.mark.soak, pytest.mark.timeout(180)])]
)
def test_a_file_that_grows_is_recorded_when_it_is_whole(following, root, seconds) -> None:
    """A network copy writes a few hundred bytes at a time and closes the file each time."""
    path = next(root.rglob("Data/*.xml"))
    whole = path.read_bytes()
    hole, _, rest = path.name.partition("_Data_")
    copy = path.with_name(f"{hole}_Data_99{rest}")
    whole = whole.replace(b"<uniqueID>", b"<uniqueID>99")
    before, pause = len(following.events), threading.Event()
    for number in range(PIECES):
        with copy.open("ab") as file:
            size = len(whole)
            file.write(whole[number * size // PIECES : (number + 1) * size // PIECES])
        pause.wait(seconds / PIECES)
    check(following, root)
    relative = copy.relative_to(root).as_posix()
    assert [each.path for each in following.events[before:]] == [relative]


def test_a_wrong_clock_hides_no_change(following, root) -> None:
    """Times of files only say that they differ, never which is the newer."""
    paths = sorted(root.rglob("Data/*.xml"))[:3]
    before = len(following.events)
    for path, time_s in zip(paths, TIMES_S, strict=True):
        text = path.read_bytes().replace(b"<ExposureTime>0.89<", b"<ExposureTime>0.91<")
        other = path.with_name(f".{path.name}.Ab12Cd")
        other.write_bytes(text)
        os.utime(other, (time_s, time_s))
        other.rename(path)
    following.wait_for(lambda: len(following.events) >= before + len(paths))
    check(following, root)
    changed = {each.path for each in following.events[before:]}
    assert changed == {path.relative_to(root).as_posix() for path in paths}


@pytest.mark.parametrize("grain_s", [1, 2])
def test_a_disk_that_rounds_times_hides_no_change(root, tmp_path, monkeypatch, grain_s) -> None:
    """A polled file may be changed, and keep its size, before its time is another one."""
    now_ns = [1_800_000_001_500_000_000]
    clock = SimpleNamespace(time=time.time, time_ns=lambda: now_ns[0])
    monkeypatch.setattr("skywright.instruments.epu.watch.importer.time", clock)
    path = next(root.rglob("Data/*.xml"))
    rounded_s = now_ns[0] // 1_000_000_000 // grain_s * grain_s
    os.utime(path, (rounded_s, rounded_s))
    database = open_database(tmp_path / "entities.sqlite", durable=False)
    watcher = Watcher(root, database, polling=60.0)
    for exposure in (b">0.89<", b">0.91<"):
        text = path.read_bytes().replace(b"<ExposureTime>0.89<", b"<ExposureTime" + exposure)
        path.write_bytes(text)
        os.utime(path, (rounded_s, rounded_s))
        watcher.scan()
        while watcher.backlog.ready:
            watcher.step(0)
    assert comparable(recorded(database, root)) == comparable(read_document(root))
    now_ns[0] += 10_000_000_000
    watcher.run(idle_exit=0)
    assert not list(changed_files(watcher.root, watcher.known))  # it is read no more
    database.close()

"""A run directory of 20 GB is tracked, opened and sliced; memory does not depend on its size."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from bluesky import RunEngine
from ioc_process import running_ioc
from store.stack import Stack, running_stack
from support.pano_files import file_name, made_frames, numbers_at, run_directory

from devices.panoseti.array import Panoseti
from plans.panoseti.runs import track_run
from skywright.callbacks.journal import Journal
from skywright.instruments.panoseti.clock import NS
from skywright.instruments.panoseti.opened import open_run
from skywright.instruments.panoseti.pff_writer import FrameEncoder
from skywright.instruments.panoseti.products import PRODUCTS
from skywright.store.client import RAW

MODULES = (1, 253, 254, 3)
"""In the order in which they get slots: that of the names of their files."""
FILE_BYTES = 1_000_000_000
BATCH = 4000
START_NS = 1_721_882_092 * NS
PERIOD_NS = 1_000_000
BYTES_MAX = 500_000_000
"""Memory of a process, whatever the size of the run."""
OPENED_BYTES_PER_FRAME = 16
"""The index of times of an opened run, 8, and as much again while its parts are joined."""
SLICE_BYTES = 50_000_000


def write_run(data_dir: Path, total_bytes: int) -> int:
    """Write files of movie frames, 1 ms apart, with rollovers; return the frames of a module."""
    product = PRODUCTS["img16"]
    images = made_frames("img16", BATCH).image
    encoder = FrameEncoder(product)
    frame_bytes = encoder.encode(numbers_at(product, np.array([START_NS])), images[:1]).size
    each = total_bytes // len(MODULES) // frame_bytes // BATCH * BATCH
    for module in MODULES:
        directory = run_directory(data_dir, module)
        written = seqno = 0
        while written < each:
            with (directory / file_name("img16", module, seqno)).open("wb") as out:
                while written < each and out.tell() < FILE_BYTES:
                    times = START_NS + PERIOD_NS * np.arange(written, written + BATCH)
                    out.write(encoder.encode(numbers_at(product, times), images).data)
                    written += BATCH
            seqno += 1
        (directory / "recording_ended").write_text("2024-07-25T01:19:53")
    return each


class Memory(threading.Thread):
    """Most memory of processes that is theirs alone, while a block runs, bytes."""

    def __init__(self, processes: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._end = threading.Event()
        self.looks: dict[str, list[int]] = {name: [] for name in processes}

    def run(self) -> None:
        while not self._end.wait(0.5):
            for name, process in self._processes.items():
                self.looks[name].append(process.memory_full_info().uss)

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running_stack(tmp_path / "store") as running:
        yield running


@contextmanager
def bounded(what: str, most: int) -> Iterator[None]:
    """Check how much more memory this process has after a block, in bytes."""
    process = psutil.Process()
    before = process.memory_full_info().uss
    yield
    grown = process.memory_full_info().uss - before
    print(f"{what}: {grown / 1e6:+.0f} MB")
    assert grown < most


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_run_of_20_gb_is_tracked_opened_and_sliced_in_constant_memory(
    RE: RunEngine, stack: Stack, tmp_path: Path
) -> None:
    track_and_slice(RE, stack, tmp_path / "data", 20_000_000_000)


def track_and_slice(RE: Any, stack: Stack, data_dir: Path, total_bytes: int) -> None:
    each = write_run(data_dir, total_bytes)
    source = ("--source", "rundir", "--data-dir", str(data_dir))
    with running_ioc("iocs.panoseti", *source) as ioc, stack.ingester() as ingester:
        panoseti = Panoseti(ioc.prefix, assets=stack.directory / "assets", name="panoseti")
        journal = Journal(stack.journals)
        RE.subscribe(journal)
        pids = {
            "IOC": ioc.process.pid,
            "ingester": ingester.process.pid,
            "tiled": stack.server.process.pid,
            "session": psutil.Process().pid,
        }
        with Memory(pids) as memory:
            uid = RE(track_run(panoseti, 3000.0)).plan_result
            stack.done(uid, 300.0)
        journal.close()
    for name, looks in memory.looks.items():
        print(f"{name}: " + " ".join(f"{used / 1e6:.0f}" for used in looks[:: len(looks) // 10]))
        assert max(looks) < BYTES_MAX, name
    with bounded("opened", SLICE_BYTES + OPENED_BYTES_PER_FRAME * each * len(MODULES)):
        opened = open_run(stack.client()[RAW][uid])["img16"]
        assert dict(opened.sizes) == {"time": each * len(MODULES), "y": 32, "x": 32}
    images = made_frames("img16", BATCH).image
    with bounded("sliced", SLICE_BYTES):
        for part, module in enumerate(MODULES):
            for first in range(0, each - 100, each // 7):
                piece = opened.isel(time=slice(part * each + first, part * each + first + 100))
                assert set(piece.module.values) == {module}
                np.testing.assert_array_equal(
                    piece.time_ns, START_NS + PERIOD_NS * np.arange(first, first + 100)
                )
                np.testing.assert_array_equal(
                    piece.image.compute(), images[np.arange(first, first + 100) % BATCH]
                )

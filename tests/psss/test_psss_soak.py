"""Ten minutes at 100 Hz, full size over the wire: every pulse once, in order, while others read.

``SKYWRIGHT_SOAK_SECONDS`` shortens it.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from bluesky import RunEngine
from ioc_process import IocProcess, running_ioc
from store.stack import Stack, running_stack

from devices.psss.spectrometer import Psss
from plans.psss.spectrum import acquire_spectra
from skywright.callbacks.journal import Journal
from skywright.instruments.psss import layouts
from skywright.instruments.psss.processing import FitStatus
from skywright.instruments.psss.pulse import PREFIX

SECONDS = float(os.environ.get("SKYWRIGHT_SOAK_SECONDS", "600"))
RATE_HZ, REEL = 100, 40
GROWTH_BYTES = 20e6
SETTLED_S = 30.0
"""After which memory must not grow."""
READ = 100
"""Spectra read at once."""


@contextmanager
def sending(truth: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run a camera in a process of its own; yields its port and the process."""
    command = [
        sys.executable,
        "-m",
        "skywright.instruments.psss.sender",
        "--port",
        "0",
        "--truth",
        str(truth),
    ]
    process = subprocess.Popen(
        [*command, "--reel", str(REEL), "--wait-for-reader", "120"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SKYWRIGHT_SUPERVISED": "1"},
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["ready"]["port"], process
    finally:
        process.kill()
        process.communicate()


class Watcher(threading.Thread):
    """Reads spectra by pulse id through tiled, and the memory of the IOC, while a run goes on."""

    def __init__(self, stack: Stack, ioc: IocProcess, uids: list[str]) -> None:
        super().__init__(daemon=True)
        self._stack, self._uids = stack, uids
        self._process = psutil.Process(ioc.process.pid)
        self.over = threading.Event()
        self.memory: list[tuple[float, int]] = []
        self.reads_ms: list[float] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        """Look every two seconds."""
        client = self._stack.client()
        began = time.monotonic()
        while not self.over.wait(2.0):
            self.memory.append((time.monotonic() - began, self._process.memory_info().rss))
            try:
                self._read(client["raw"])
            except (KeyError, IndexError):  # not there yet
                continue

    def _read(self, raw: Any) -> None:
        stream = raw[self._uids[-1]]["primary"]
        # In a run that goes on, an array grows each 1 to 5 s; the column of the ids grows before it
        stored = stream["psss_spectrum"].shape[0]
        ids = stream["psss_pulse_id"].read()[:stored]
        if len(ids) < 2 * READ:
            return
        first = int(np.random.default_rng(len(ids)).choice(ids[:-READ]))
        begun = time.perf_counter()
        row = int(np.searchsorted(ids, first))
        spectra = stream["psss_spectrum"][row : row + READ]
        self.reads_ms.append(1e3 * (time.perf_counter() - begun))
        if spectra.shape[0] != READ or not (spectra.max(axis=1) > 0).all():
            self.wrong.append(f"{spectra.shape} from pulse {first}")


def has_spectra(file: Path) -> bool:
    with h5py.File(file) as columns:
        return layouts.SPECTRUM in columns


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
def test_every_pulse_once_and_in_order(tmp_path: Path) -> None:
    truth = tmp_path / "truth.npz"
    with (
        running_stack(tmp_path / "store") as stack,
        stack.ingester(),
        sending(truth) as (port, camera),
        running_ioc(
            *("iocs.psss", "--source", "bsread", "--input", f"tcp://127.0.0.1:{port}"),
            prefix=f"{PREFIX}:",
        ) as ioc,
    ):
        engine, uids = RunEngine(call_returns_result=True), []
        engine.subscribe(Journal(stack.journals, engine))
        engine.subscribe(lambda _, doc: uids.append(doc["uid"]), "start")
        psss = Psss(ioc.prefix, assets=stack.directory / "assets", name="psss")
        psss.wait_for_connection(timeout=60)
        watcher = Watcher(stack, ioc, uids)
        watcher.start()
        engine(acquire_spectra(psss, seconds=SECONDS))
        watcher.over.set()
        watcher.join()
        stack.done(uids[-1])
        stored = stack.client()["raw"][uids[-1]]["primary"]["psss_pulse_id"].read()
        files = list((stack.directory / "assets").rglob("*.h5"))
        camera.terminate()
        camera.wait(60)
        lost = ioc.text

    sent = np.load(truth)
    (file,) = filter(has_spectra, files)
    with h5py.File(file) as columns:
        ids, spectra = columns[layouts.PULSE_ID][:], columns[layouts.SPECTRUM]
        status, center = columns[layouts.STATUS][:], columns[f"{layouts.FIT}/center"][:]
        same = [spectra[i] for i in range(0, len(ids), REEL)]
    settled = [size for age, size in watcher.memory if age > min(SETTLED_S, SECONDS / 4)]
    # Single readings differ by the pictures in flight, 11 MB each: medians of many are compared.
    part = max(1, min(30, len(settled) // 3))
    first, last = np.median(settled[:part]), np.median(settled[-part:])
    counts = np.unique(status, return_counts=True)
    figures = {
        "seconds": SECONDS,
        "pulses": len(ids),
        "growth_mb": round((last - first) / 1e6, 1),
        "memory_mb": [round(size / 1e6) for size in np.percentile(settled, [0, 5, 50, 95, 100])],
        "medians_mb": [round(np.median(each) / 1e6, 1) for each in np.array_split(settled, 9)],
        "reads": len(watcher.reads_ms),
        "read_100_ms_p50_p95": np.percentile(watcher.reads_ms, [50, 95]).round(1).tolist(),
        "fits": {FitStatus(code).name: int(n) for code, n in zip(*counts, strict=True)},
    }
    print(json.dumps(figures))
    begin, end = np.searchsorted(sent["pulse_id"], [ids[0], ids[-1]])
    assert sent["pulse_id"][begin : end + 1].tolist() == ids.tolist(), lost
    assert sent["sent"][begin : end + 1].all()
    assert len(ids) >= 0.99 * RATE_HZ * SECONDS
    assert stored.tolist() == ids.tolist()
    assert all(np.array_equal(each, same[0]) for each in same[1:])
    # The pictures come round again and again: so must their fits, and each has one or a reason.
    assert all(len(np.unique(center[i::REEL])) == 1 for i in range(REEL))
    assert (np.isfinite(center) | (status != FitStatus.OK)).all()
    assert np.isfinite(center).mean() > 0.95
    assert not watcher.wrong
    assert watcher.reads_ms
    assert figures["growth_mb"] < GROWTH_BYTES / 1e6

"""A minute of 60 pictures a second, pushed over two connections: all of them are in the file."""

import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import epics
import numpy as np
import psutil
import pytest
import simplejpeg
from ioc_process import IocProcess, running_ioc

from skywright.files.columns import ColumnReader
from skywright.instruments.loop.layouts import IDENTITY, JPEG_SIZE, SENDER_TIME
from skywright.wire.axis_body import name_with_time

pytestmark = pytest.mark.soak

SECONDS, FPS, CONNECTIONS = 60, 60, 2
MEMORY_BYTES = 20_000_000


def pictures() -> list[bytes]:
    """Return JPEGs of a video server's size, each of its own length."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(60, 220, (30, 60, 88, 1), np.uint8)
    return [
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(each.repeat(8, 0).repeat(8, 1)), quality=80, colorspace="GRAY"
        )
        for each in coarse
    ]


def send(port: int, first: int, files: list[bytes], begun: float, refused: list[int]) -> None:
    http = HTTPConnection("127.0.0.1", port, timeout=30)
    pause = threading.Event()
    for number in range(first, SECONDS * FPS, CONNECTIONS):
        pause.wait(max(begun + number / FPS - time.time(), 0.0))
        name = name_with_time(1e9 + number / FPS)
        headers = {
            "Content-Type": "image/jpeg",
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        http.request("POST", "/", files[number % len(files)], headers)
        answer = http.getresponse()
        answer.read()
        if answer.status != 200:
            refused.append(number)
    http.close()


def put(ioc: IocProcess, name: str, value: object) -> None:
    assert epics.caput(ioc.prefix + name, value, wait=True, timeout=30) == 1


def test_a_minute_of_pictures_is_recorded_whole(tmp_path: Path) -> None:
    files = pictures()
    with running_ioc("iocs.axis", "--source", "push", "--listen", "0", "--size", "704x480") as ioc:
        put(ioc, "HDF1:FilePath", str(tmp_path))
        put(ioc, "HDF1:Capture", 1)
        path = Path(epics.caget(f"{ioc.prefix}HDF1:FullFileName_RBV", as_string=True))
        epics.caput(f"{ioc.prefix}cam1:Acquire", 1)
        while not epics.caget(f"{ioc.prefix}cam1:Acquire_RBV"):
            threading.Event().wait(0.05)
        memory = psutil.Process(ioc.process.pid).memory_info
        refused: list[int] = []
        begun = time.time()
        senders = [
            threading.Thread(target=send, args=(ioc.ready["listen"], i, files, begun, refused))
            for i in range(CONNECTIONS)
        ]
        for sender in senders:
            sender.start()
        threading.Event().wait(10.0)  # buffers have their size, kernels are loaded
        settled = memory().rss
        for sender in senders:
            sender.join()
        put(ioc, "cam1:Acquire", 0)
        grown = memory().rss - settled
        put(ioc, "HDF1:Capture", 0)
        assert epics.caget(f"{ioc.prefix}HDF1:DroppedArrays_RBV") == 0
    assert refused == []
    with ColumnReader(path, IDENTITY) as reader:
        assert reader.count() == SECONDS * FPS
        sent = reader.read(SENDER_TIME)
        sizes = reader.read(JPEG_SIZE)
    assert len(np.unique(sent)) == SECONDS * FPS
    assert path.with_suffix(".mjpeg").stat().st_size == sizes.sum()
    assert grown < MEMORY_BYTES, f"{grown / 1e6:.1f} MB"

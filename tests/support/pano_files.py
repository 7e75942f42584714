"""Frames and PFF files of made numbers, for tests."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support.waiting import until

from skywright.instruments.panoseti.clock import NS, TAI_MINUS_UTC_S
from skywright.instruments.panoseti.frames import Frames, make_frames
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.products import PRODUCTS, FileName, Product

START_S = 1_721_882_092


def made_frames(product: str, count: int, seed: int = 0, module: int = 1) -> Frames:
    """Return frames 1 ms apart, clocks in step, random pixels."""
    kind = PRODUCTS[product]
    rng = np.random.default_rng(seed)
    limits = np.iinfo(kind.dtype)
    shape = (count, kind.side, kind.side)
    image = rng.integers(
        limits.min, limits.max + 1, shape, dtype=np.dtype(kind.dtype).newbyteorder("=")
    )
    times = START_S * NS + 1_000_000 * np.arange(1, count + 1)
    numbers = numbers_at(kind, times)
    quabo = np.arange(count) % 4 if kind.quabos == 1 else np.zeros(count, np.int64)
    return make_frames(
        kind, module, "", np.arange(count), np.zeros(count, np.int64), quabo, numbers,
        image.astype(kind.dtype),
    )  # fmt: skip


def numbers_at(product: Product, times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return header numbers of packets at `times_ns`, which arrive 0.3 ms later."""
    numbers = np.zeros((len(times_ns), product.quabos, 5), np.int64)
    arrival = times_ns + 300_000
    numbers[:, :, 0] = (np.arange(len(times_ns)) % 65536)[:, np.newaxis]
    numbers[:, :, 1] = ((times_ns // NS + TAI_MINUS_UTC_S) % 1024)[:, np.newaxis]
    numbers[:, :, 2] = (times_ns % NS)[:, np.newaxis]
    numbers[:, :, 3] = (arrival // NS)[:, np.newaxis]
    numbers[:, :, 4] = (arrival % NS // 1000)[:, np.newaxis]
    return numbers


def file_name(product: str, module: int = 1, seqno: int = 0) -> str:
    """Return the name of a PFF file."""
    return str(FileName("2024-07-25T04:34:46Z", PRODUCTS[product], module, seqno))


def run_directory(data_dir: Path, module: int = 1, run: str = "a") -> Path:
    """Make and return the directory of one module's run."""
    path = data_dir / f"module_{module}" / f"obs_{run}.start_2024-07-25T04:34:06Z.runtype_test.pffd"
    path.mkdir(parents=True, exist_ok=True)
    return path


def append(path: Path, frames: Frames, first: int = 0, last: int | None = None) -> None:
    """Append frames `first` to `last`, or to the last one, to a file, unbuffered."""
    with path.open("ab", buffering=0) as out:
        out.write(encode_frames(frames[first:last]))


def announce(run: Path, *products: str) -> None:
    """Write the names of products into the pipe of a run, as soon as the server reads it."""

    def opened() -> int:
        with suppress(OSError):  # ENXIO: nobody reads it yet
            return os.open(run / "read_status_2", os.O_WRONLY | os.O_NONBLOCK)
        return 0

    pipe_end = until(opened, what="the pipe is read")
    os.write(pipe_end, "".join(product.ljust(10) for product in products).encode())
    os.close(pipe_end)
